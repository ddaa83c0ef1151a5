package file

import (
	"io/fs"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	seekData = unix.SEEK_DATA
	seekHole = unix.SEEK_HOLE

	// Attributes of inodes, as linux/fs.h has them. The two requests below
	// have the same number on every architecture with this encoding of ioctl.
	noCOWFlag        = 0x00800000 // FS_NOCOW_FL
	extSizeFlag      = 0x00000800 // FS_XFLAG_EXTSIZE
	fsGetXattr       = 0x801c581f // FS_IOC_FSGETXATTR
	fsSetXattr       = 0x401c5820 // FS_IOC_FSSETXATTR
	maxExtentSize    = 1<<32 - 1
	defaultAlignment = 4096
)

// isFull tells whether an error number says that there is no room.
func isFull(no syscall.Errno) bool { return no == syscall.ENOSPC || no == syscall.EDQUOT }

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	_                                             [8]byte
}

func ioctl(f *os.File, req uintptr, arg unsafe.Pointer) error {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), req, uintptr(arg))
	runtime.KeepAlive(f)
	if errno != 0 {
		return errno
	}
	return nil
}

func openPath(name string, flags int, direct bool) (*os.File, error) {
	if direct {
		flags |= unix.O_DIRECT
	}
	return os.OpenFile(name, flags, 0)
}

// deviceWritable asks whether a device was set read-only.
func deviceWritable(f *os.File) error {
	var ro int32
	if err := ioctl(f, unix.BLKROGET, unsafe.Pointer(&ro)); err == nil && ro != 0 {
		return syscall.EACCES
	}
	return nil
}

// fileSize is the length of a file or of a block device; character devices have
// none that we could ask for.
func fileSize(f *os.File, device bool) (int64, error) {
	if device {
		var size uint64
		if err := ioctl(f, unix.BLKGETSIZE64, unsafe.Pointer(&size)); err == nil && int64(size) >= 0 {
			return int64(size), nil
		}
	}
	return statFileSize(f)
}

// deviceSector is the logical block size of a device, 0 if it has none.
func deviceSector(f *os.File) int64 {
	var size int32
	if err := ioctl(f, unix.BLKSSZGET, unsafe.Pointer(&size)); err != nil {
		return 0
	}
	return int64(size)
}

// fsBlockSize is the block size of the file system f is on, 0 if files cannot share
// blocks there.
func fsBlockSize(f *os.File) int64 {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Bsize <= 0 {
		return defaultAlignment
	}
	switch uint32(st.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.RAMFS_MAGIC, unix.MSDOS_SUPER_MAGIC:
		return 0
	}
	return int64(st.Bsize)
}

// directAlign returns what offsets and lengths, and what memory must be aligned
// to for direct I/O.
func directAlign(f *os.File, device bool) (align, mem int64) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st); err == nil &&
		st.Mask&unix.STATX_DIOALIGN != 0 && powerOfTwo(st.Dio_offset_align) && powerOfTwo(st.Dio_mem_align) {
		return int64(st.Dio_offset_align), int64(st.Dio_mem_align)
	}
	if device {
		if s := deviceSector(f); s >= 512 && s <= defaultAlignment {
			return s, defaultAlignment
		}
	}
	return defaultAlignment, defaultAlignment
}

// powerOfTwo accepts alignments that our buffers have.
func powerOfTwo(n uint32) bool { return n > 0 && n <= defaultAlignment && n&(n-1) == 0 }

func allocated(st fs.FileInfo) int64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Blocks * 512
	}
	return -1
}

func extentSizeHint(f *os.File) int64 {
	var x fsxattr
	if err := ioctl(f, fsGetXattr, unsafe.Pointer(&x)); err != nil || x.xflags&extSizeFlag == 0 {
		return 0
	}
	return int64(x.extsize)
}

func setExtentSizeHint(f *os.File, size int64) error {
	var x fsxattr
	if err := ioctl(f, fsGetXattr, unsafe.Pointer(&x)); err != nil {
		return err
	}
	x.xflags |= extSizeFlag
	x.extsize = uint32(size)
	return ioctl(f, fsSetXattr, unsafe.Pointer(&x))
}

// setNoCOW is a wish: most file systems do not know it.
func setNoCOW(f *os.File) {
	var attr int32
	if ioctl(f, unix.FS_IOC_GETFLAGS, unsafe.Pointer(&attr)) == nil {
		attr |= noCOWFlag
		_ = ioctl(f, unix.FS_IOC_SETFLAGS, unsafe.Pointer(&attr))
	}
}

func syncData(f *os.File) error {
	return retry(func() error { return unix.Fdatasync(int(f.Fd())) })
}

// allocateRange reserves room, as fallocate(2) does.
func allocateRange(f *os.File, off, n int64) error {
	err := retry(func() error { return unix.Fallocate(int(f.Fd()), 0, off, n) })
	if unsupported(err) {
		return driver.ErrUnsupported
	}
	return err
}

func preadOnce(f *os.File, p []byte, off int64) (n int, err error) {
	err = retry(func() error { n, err = unix.Pread(int(f.Fd()), p, off); return err })
	return max(n, 0), err
}

// rangeIoctl passes a range to a block device.
func (n *node) rangeIoctl(req uintptr, off, length int64, never *atomic.Bool) error {
	if never.Load() {
		return driver.ErrUnsupported
	}
	arg := [2]uint64{uint64(off), uint64(length)}
	err := retry(func() error { return ioctl(n.f, req, unsafe.Pointer(&arg)) })
	if err != nil && unsupported(err) {
		never.Store(true)
		return driver.ErrUnsupported
	}
	return sysErrorf(err, "could not change the allocation of '%s' at offset %d", n.name, off)
}
