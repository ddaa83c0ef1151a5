//go:build linux && (amd64 || arm64)

package gfapi

import (
	"errors"
	"io"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"github.com/cowl-disk/cowl/internal/native/link"
)

const (
	// zeroPart is how many zeroes one call writes: a server must not take a call for lost.
	zeroPart   = 64 << 20
	seekData   = 3
	seekHole   = 4
	sectorSize = 512 // of what stat(2) counts
)

// file is an open file.
type file struct {
	*volume
	fd    uintptr
	write bool
	holes bool
	size  int64 // when it was opened

	seekMu sync.Mutex // the position is that of all threads
}

// Facts implements serve.Disk.
func (f *file) Facts() (link.Facts, error) {
	return link.Facts{Size: f.size, ReadOnly: !f.write, Grows: true, Holes: f.holes, Zeroes: true}, nil
}

func (f *file) seek(off int64, whence int32) (int64, error) {
	f.seekMu.Lock()
	defer f.seekMu.Unlock()
	return f.lib.call(func() int64 { return f.lib.lseek(f.fd, off, whence) })
}

func (f *file) length() (int64, error) { return f.seek(0, io.SeekEnd) }

// ReadAt implements serve.Disk. Behind the end there are zeroes.
func (f *file) ReadAt(p []byte, off int64) error {
	defer runtime.KeepAlive(p)
	for len(p) > 0 {
		n, err := f.lib.call(func() int64 { return f.lib.pread(f.fd, unsafe.Pointer(&p[0]), uintptr(len(p)), off, 0, 0) })
		if err != nil {
			return err
		}
		if n == 0 {
			clear(p)
			return nil
		}
		p, off = p[n:], off+n
	}
	return nil
}

// WriteAt implements serve.Disk.
func (f *file) WriteAt(p []byte, off int64) error {
	defer runtime.KeepAlive(p)
	for len(p) > 0 {
		n, err := f.lib.call(func() int64 { return f.lib.pwrite(f.fd, unsafe.Pointer(&p[0]), uintptr(len(p)), off, 0, 0, 0) })
		if err != nil {
			return err
		}
		if n == 0 {
			return syscall.EIO
		}
		p, off = p[n:], off+n
	}
	return nil
}

// Flush implements serve.Disk.
func (f *file) Flush() error {
	if !f.write {
		return nil
	}
	_, err := f.lib.call(func() int64 { return int64(f.lib.fsync(f.fd, 0, 0)) })
	return err
}

// WriteZeroes implements serve.Disk: where the room may go, by holes.
func (f *file) WriteZeroes(off, n int64, keep bool) error {
	if !keep {
		size, err := f.length()
		if err != nil {
			return err
		}
		if end := off + n; end > size {
			if err := f.truncate(end); err != nil {
				return err
			}
			n = size - off
		}
		if n <= 0 {
			return nil
		}
		if err := f.Discard(off, n); !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	return f.zeroes(off, n)
}

func (f *file) zeroes(off, n int64) error {
	for n > 0 {
		part := min(n, zeroPart)
		if _, err := f.lib.call(func() int64 { return int64(f.lib.zerofill(f.fd, off, part)) }); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// Discard implements serve.Disk: what is discarded reads as zeroes.
func (f *file) Discard(off, n int64) error {
	_, err := f.lib.call(func() int64 { return int64(f.lib.discard(f.fd, off, uintptr(n))) })
	return err
}

func (f *file) truncate(size int64) error {
	_, err := f.lib.call(func() int64 { return int64(f.lib.ftruncate(f.fd, size, 0, 0)) })
	return err
}

// Extents implements serve.Disk. Where the volume does not know, everything is data.
func (f *file) Extents(off, n int64, yield func(length int64, data bool) bool) error {
	for end := off + n; off < end; {
		next, data := f.extent(off, end)
		if !yield(next-off, data) {
			return nil
		}
		off = next
	}
	return nil
}

// extent says what is at off, and where it ends.
func (f *file) extent(off, end int64) (next int64, data bool) {
	if !f.holes {
		return end, true
	}
	at, err := f.seek(off, seekData)
	switch {
	case err == syscall.ENXIO:
		return end, false
	case err != nil || at < off: // some versions answer so
		return end, true
	case at > off:
		return min(at, end), false
	}
	if at, err = f.seek(off, seekHole); err != nil || at <= off {
		return end, true
	}
	return min(at, end), true
}

// Resize implements serve.Disk.
func (f *file) Resize(r link.Resize) error {
	size, err := f.length()
	switch {
	case err != nil:
		return failed("size", err)
	case r.Size < size && r.Prealloc != "":
		return &link.Error{Step: "preallocation when shrinking", Errno: int(syscall.ENOTSUP)}
	case r.Size == size:
		return nil
	}
	switch r.Prealloc {
	case "":
		return failed("resize", f.truncate(r.Size))
	case "falloc":
		_, err := f.lib.call(func() int64 { return int64(f.lib.fallocate(f.fd, 0, size, uintptr(r.Size-size))) })
		return failed("preallocate", err)
	case "full":
		if err := f.truncate(r.Size); err != nil {
			return failed("resize", err)
		}
		return failed("zero", f.zeroes(size, r.Size-size))
	}
	return &link.Error{Step: "preallocation", Name: r.Prealloc, Errno: int(syscall.EINVAL)}
}

// Usage implements serve.Disk.
func (f *file) Usage() (int64, error) {
	var st syscall.Stat_t
	_, err := f.lib.call(func() int64 { return int64(f.lib.fstat(f.fd, &st)) })
	return st.Blocks * sectorSize, err
}

// Close implements serve.Disk: the volume's caches are written, and what failed then is told.
func (f *file) Close() error {
	_, err := f.lib.call(func() int64 { return int64(f.lib.closeFile(f.fd)) })
	return failed("close", err)
}
