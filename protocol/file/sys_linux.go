package file

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/trace"
)

const (
	ofdSetLock = unix.F_OFD_SETLK
	ofdGetLock = unix.F_OFD_GETLK

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

// unsupported tells whether err means that the host cannot do this at all.
func unsupported(err error) bool {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOTTY):
		return true
	}
	return false
}

// fallocate calls fallocate(2), unless never says that it is useless. The answer
// is driver.ErrUnsupported, an error, or nil.
func (n *node) fallocate(mode uint32, off, length int64, never *atomic.Bool) error {
	if never.Load() {
		return driver.ErrUnsupported
	}
	err := retry(func() error { return unix.Fallocate(int(n.fd), mode, off, length) })
	switch {
	case err == nil:
		return nil
	case unsupported(err):
		never.Store(true)
		return driver.ErrUnsupported
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EBUSY):
		// Some file systems refuse unaligned ranges, swap files are busy.
		return driver.ErrUnsupported
	}
	return sysErrorf(err, "could not change the allocation of '%s' at offset %d", n.name, off)
}

// punch makes a hole in a file.
func (n *node) punch(off, length int64) error {
	return n.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length, &n.features.noPunch)
}

// zeroFile makes a range of a file zero, extending the file where it ends
// before. With ZeroMayUnmap it becomes a hole, else it has room on disk.
func (n *node) zeroFile(off, length int64, flags driver.ZeroFlags) error {
	end := off + length
	isUnsupported := func(err error) bool { return errors.Is(err, driver.ErrUnsupported) }
	if flags&driver.ZeroMayUnmap != 0 {
		err := error(nil)
		if in := min(end, n.Size()) - off; in > 0 {
			err = n.punch(off, in)
		}
		if err == nil {
			return n.extend(end)
		}
		if !isUnsupported(err) {
			return err
		}
	}
	if end > n.Size() {
		n.sizeMu.RLock()
		defer n.sizeMu.RUnlock()
	}
	err := n.fallocate(unix.FALLOC_FL_ZERO_RANGE, off, length, &n.features.noZeroRange)
	if isUnsupported(err) && !n.features.noFallocate.Load() {
		if err = n.punch(off, length); err == nil {
			err = n.fallocate(0, off, length, &n.features.noFallocate)
		}
	}
	if isUnsupported(err) && off >= n.Size() {
		err = n.fallocate(0, off, length, &n.features.noFallocate)
	}
	if err == nil {
		n.grown(end)
	}
	return err
}

// zeroDevice makes a range of a device zero. fallocate is asked first, because
// it never writes zeroes the slow way by itself.
func (n *node) zeroDevice(off, length int64, flags driver.ZeroFlags) error {
	if off%n.sector != 0 || length%n.sector != 0 {
		return driver.ErrUnsupported
	}
	if flags&driver.ZeroMayUnmap != 0 {
		if err := n.punch(off, length); !errors.Is(err, driver.ErrUnsupported) {
			return err
		}
	}
	err := n.fallocate(unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length, &n.features.noZeroRange)
	if !errors.Is(err, driver.ErrUnsupported) || flags&driver.ZeroNoFallback != 0 {
		return err
	}
	return n.rangeIoctl(unix.BLKZEROOUT, off, length, &n.features.noZeroOut)
}

// discardDevice gives the room of a range of a device back.
func (n *node) discardDevice(off, length int64) error {
	if off%n.sector != 0 || length%n.sector != 0 {
		return driver.ErrUnsupported
	}
	return n.rangeIoctl(unix.BLKDISCARD, off, length, &n.features.noDiscard)
}

// offloadSize bounds one call, so that a cancelled context is noticed.
const offloadSize = 64 << 20

// cannotCopy tells whether err means that this pair of files cannot be copied
// so, rather than that copying failed.
func cannotCopy(err error) bool {
	switch {
	case unsupported(err), errors.Is(err, unix.EXDEV), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM),
		errors.Is(err, unix.ETXTBSY), errors.Is(err, unix.EBADF):
		return true
	}
	return false
}

// reflink makes whole blocks of n share those of from.
func (n *node) reflink(from *node, srcOff, dstOff, length int64) (int64, error) {
	b := n.fsBlock
	if b == 0 || srcOff%b != 0 || dstOff%b != 0 {
		return 0, driver.ErrUnsupported
	}
	// The last block may be a part of one only where both files end with it.
	if length%b != 0 && (srcOff+length < from.Size() || dstOff+length < n.Size()) {
		length -= length % b
	}
	if length == 0 { // would mean: all the rest
		return 0, driver.ErrUnsupported
	}
	r := unix.FileCloneRange{Src_fd: int64(from.fd), Src_offset: uint64(srcOff), Src_length: uint64(length), Dest_offset: uint64(dstOff)}
	err := retry(func() error { return unix.IoctlFileCloneRange(int(n.fd), &r) })
	switch {
	case err == nil:
		n.grown(dstOff + length)
		return length, nil
	case cannotCopy(err):
		return 0, driver.ErrUnsupported
	}
	return 0, sysErrorf(err, "could not share blocks of '%s' with '%s'", from.name, n.name)
}

// offload lets the kernel (or the server) copy.
func (n *node) offload(ctx context.Context, from *node, srcOff, dstOff, length int64) (int64, error) {
	var done int64
	for done < length {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		in, out := srcOff+done, dstOff+done
		m, err := unix.CopyFileRange(int(from.fd), &in, int(n.fd), &out, int(min(length-done, offloadSize)), 0)
		trace.FileCopyFileRange.Log(srcOff+done, dstOff+done, int64(m))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil && cannotCopy(err) || err == nil && m == 0:
			if done == 0 {
				return 0, driver.ErrUnsupported
			}
			return done, nil
		case err != nil:
			return done, sysErrorf(err, "could not copy '%s' to '%s' at offset %d", from.name, n.name, dstOff+done)
		}
		done += int64(m)
		n.grown(dstOff + done)
	}
	return done, nil
}

// ExpectNewData implements driver.NewDataExpecter. ext4 does its bookkeeping block
// by block when a write finds no room reserved, and once for all of it when
// fallocate(2) came first; docs/decisions/008-reserve-before-writing.md has the
// figures. Other file systems are left alone: some write zeroes to reserve, some
// give up compression for what is reserved.
func (n *node) ExpectNewData() {
	if !n.write || n.device || n.align != 0 {
		return
	}
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(int(n.fd), &st) }); err == nil && int64(st.Type) == unix.EXT4_SUPER_MAGIC {
		n.reserve.Store(true)
	}
}

// reserveRoom gets the blocks that a write is about to fill. It reports no error:
// the write tells what is wrong.
func (n *node) reserveRoom(off, length int64) {
	err := n.fallocate(unix.FALLOC_FL_KEEP_SIZE, off, length, &n.features.noFallocate)
	if errors.Is(err, driver.ErrUnsupported) {
		n.reserve.Store(false) // ext2 and ext3 have the same magic number
	}
}

// StartWriteback implements driver.WritebackStarter. It reports no error: what
// cannot be written is reported by the flush that comes after it, and file systems
// that do not know the call lose nothing.
func (n *node) StartWriteback() {
	if n.write && !n.cache.NoFlush {
		_ = unix.SyncFileRange(int(n.fd), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
}
