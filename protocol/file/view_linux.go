package file

import (
	"context"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/trace"
)

var _ driver.Viewer = (*node)(nil)

// View implements driver.Viewer with a mapping of the file into memory. The pages are
// brought in by a system call, which can wait for a device as a read can; one that goes
// away afterwards, because the file is cut off, ends the view and not the process.
func (n *node) View(ctx context.Context, off, length int64, look func(p []byte)) bool {
	if n.File() == nil || off < 0 || length > n.Size()-off || ctx.Err() != nil {
		return false
	}
	skip := off % int64(os.Getpagesize())
	mapped, err := unix.Mmap(int(n.fd), off-skip, int(skip+length), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Munmap(mapped) }()
	_ = unix.Madvise(mapped, unix.MADV_SEQUENTIAL) // for reading ahead
	if unix.Madvise(mapped, unix.MADV_POPULATE_READ) != nil {
		return false
	}
	trace.FileView.Log(off, length)
	return guarded(func() { look(mapped[skip:]) })
}

// guarded runs look and reports whether all memory that it read was there.
func guarded(look func()) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if ok {
			return
		}
		p := recover()
		if _, fault := p.(interface{ Addr() uintptr }); !fault && p != nil {
			panic(p)
		}
	}()
	look()
	return true
}
