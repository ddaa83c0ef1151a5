//go:build linux || darwin || freebsd

package fusedisk

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/qemuimg"
)

// Mounter shows disks.
type Mounter struct{}

// mounted is a disk that is shown.
type mounted struct {
	dir    string
	server *fuse.Server
	file   *file
}

// Mount implements qemuimg.Mounter.
func (Mounter) Mount(dir string, img *block.Image, offset, length int64, others bool) (qemuimg.Mounted, error) {
	f := &file{img: img, off: offset, n: length, began: time.Now()}
	f.asked = new(sync.WaitGroup)
	forever := time.Hour
	flags := []string{}
	if !img.Writable() {
		flags = append(flags, "ro")
	}
	server, err := fs.Mount(dir, &root{file: f}, &fs.Options{
		MountOptions: fuse.MountOptions{FsName: "cowl", Name: "cowl", DirectMount: true, AllowOther: others, Options: flags, MaxWrite: 1 << 20, MaxBackground: 64},
		EntryTimeout: &forever, AttrTimeout: &forever,
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
	})
	if err != nil {
		return nil, err
	}
	return &mounted{dir, server, f}, nil
}

// Name implements qemuimg.Mounted.
func (m *mounted) Name() string { return filepath.Join(m.dir, fileName) }

// Wait implements qemuimg.Mounted.
func (m *mounted) Wait() { m.server.Wait() }

// Unmount implements qemuimg.Mounted.
func (m *mounted) Unmount() error { return m.server.Unmount() }

// Detach implements qemuimg.Mounted.
func (m *mounted) Detach() error { return detach(m.dir) }

// Answered implements qemuimg.Mounted.
func (m *mounted) Answered() <-chan struct{} {
	m.file.mu.Lock()
	before := m.file.asked
	m.file.asked = new(sync.WaitGroup)
	m.file.mu.Unlock()
	done := make(chan struct{})
	go func() {
		before.Wait()
		close(done)
	}()
	return done
}

// root is the folder that holds the file.
type root struct {
	fs.Inode
	file *file
}

var _ fs.NodeOnAdder = (*root)(nil)

// OnAdd implements fs.NodeOnAdder.
func (r *root) OnAdd(ctx context.Context) {
	r.AddChild(fileName, r.NewPersistentInode(ctx, r.file, fs.StableAttr{Mode: syscall.S_IFREG}), false)
}

// file is the disk. Requests run beside one another.
type file struct {
	fs.Inode
	img    *block.Image
	off, n int64
	began  time.Time

	mu    sync.Mutex
	asked *sync.WaitGroup // of the requests that began since Answered was called last
}

// enter notes that a request begins, and returns what notes its end.
func (f *file) enter() *sync.WaitGroup {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked.Add(1)
	return f.asked
}

var (
	_ fs.NodeGetattrer = (*file)(nil)
	_ fs.NodeSetattrer = (*file)(nil)
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeReader    = (*file)(nil)
	_ fs.NodeWriter    = (*file)(nil)
	_ fs.NodeFsyncer   = (*file)(nil)
	_ fs.NodeAllocater = (*file)(nil)
	_ fs.NodeLseeker   = (*file)(nil)
)

// errno is the number that the kernel gives to the program that asks.
func errno(err error) syscall.Errno {
	var no syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &no):
		return no
	case errors.Is(err, driver.ErrUnsupported):
		return syscall.EOPNOTSUPP
	case errors.Is(err, driver.ErrReadOnly):
		return syscall.EROFS
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	}
	return syscall.EIO
}

func (f *file) attr(out *fuse.Attr) {
	out.Mode = syscall.S_IFREG | 0o400
	if f.img.Writable() {
		out.Mode |= 0o200
	}
	out.Size = uint64(f.n)
	out.Blocks = (out.Size + 511) / 512
	out.Blksize = 1 << 16
	out.SetTimes(&f.began, &f.began, &f.began)
}

// Getattr implements fs.NodeGetattrer.
func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.attr(&out.Attr)
	return 0
}

// Setattr implements fs.NodeSetattrer: a disk has its size. Times and modes are taken and
// not kept, as with devices that have no place for them.
func (f *file) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok && size != uint64(f.n) {
		return syscall.EPERM
	}
	return f.Getattr(ctx, h, out)
}

// Open implements fs.NodeOpener. Nobody else writes to the image: the kernel may keep
// what it has read.
func (f *file) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY && !f.img.Writable() {
		return nil, 0, syscall.EROFS
	}
	if flags&syscall.O_TRUNC != 0 {
		return nil, 0, syscall.EPERM
	}
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

// Read implements fs.NodeReader.
func (f *file) Read(ctx context.Context, _ fs.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	defer f.enter().Done()
	if off >= f.n {
		return fuse.ReadResultData(nil), 0
	}
	p = p[:min(int64(len(p)), f.n-off)]
	if _, err := f.img.ReadAt(ctx, p, f.off+off); err != nil && err != io.EOF {
		return nil, errno(err)
	}
	return fuse.ReadResultData(p), 0
}

// Write implements fs.NodeWriter. It is not interrupted half-way.
func (f *file) Write(ctx context.Context, _ fs.FileHandle, p []byte, off int64) (uint32, syscall.Errno) {
	defer f.enter().Done()
	if off >= f.n {
		return 0, syscall.ENOSPC // as on a device
	}
	p = p[:min(int64(len(p)), f.n-off)]
	n, err := f.img.WriteAt(context.WithoutCancel(ctx), p, f.off+off)
	return uint32(n), errno(err)
}

// Fsync implements fs.NodeFsyncer.
func (f *file) Fsync(ctx context.Context, _ fs.FileHandle, _ uint32) syscall.Errno {
	defer f.enter().Done()
	return errno(f.img.Flush(context.WithoutCancel(ctx)))
}

// The modes of fallocate(2).
const (
	fallocKeepSize  = 1
	fallocPunchHole = 2
	fallocZeroRange = 16
)

// Allocate implements fs.NodeAllocater: holes are discarded and read as zeroes.
func (f *file) Allocate(ctx context.Context, _ fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	defer f.enter().Done()
	if !f.img.Writable() {
		return syscall.EROFS
	}
	if off > uint64(f.n) || size > uint64(f.n)-off {
		return syscall.ENOSPC
	}
	flags := driver.ZeroMayUnmap
	switch mode {
	case 0, fallocKeepSize:
		return syscall.EOPNOTSUPP // the room of an image is not reserved in parts
	case fallocPunchHole | fallocKeepSize:
	case fallocZeroRange, fallocZeroRange | fallocKeepSize:
		flags = 0
	default:
		return syscall.EOPNOTSUPP
	}
	return errno(f.img.WriteZeroes(context.WithoutCancel(ctx), f.off+int64(off), int64(size), flags))
}

// Lseek implements fs.NodeLseeker: ranges that are known to read as zeroes are holes.
func (f *file) Lseek(ctx context.Context, _ fs.FileHandle, start uint64, whence uint32) (uint64, syscall.Errno) {
	defer f.enter().Done()
	if start >= uint64(f.n) {
		return 0, syscall.ENXIO
	}
	for at := int64(start); at < f.n; {
		st, err := f.img.Status(ctx, f.off+at, f.n-at, nil)
		if err != nil {
			return 0, errno(err)
		}
		if st.Zero == (whence == seekHole) {
			return uint64(at), 0
		}
		at += st.Length
	}
	if whence == seekHole {
		return uint64(f.n), 0 // every file ends with one
	}
	return 0, syscall.ENXIO
}
