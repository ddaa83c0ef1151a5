package file

import (
	"context"
	"errors"
	"math"
	"os"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

const (
	// firstBlock is written as zeroes when an empty file gets a size, so that
	// programs which find out about direct I/O by reading find a block to read.
	firstBlock = 4096
	// fillSize is how much preallocation=full writes at once.
	fillSize = 1 << 20
)

// Resize implements driver.Resizer.
func (n *node) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	if !n.write {
		return driver.Errorf(driver.ErrReadOnly, "'%s' is open for reading", n.name)
	}
	if size < 0 {
		return driver.Errorf(driver.ErrInvalid, "negative size")
	}
	if n.device {
		return n.resizeDevice(size, opt)
	}
	unlock, err := n.lockForZero(ctx, 0, math.MaxInt64)
	if err != nil {
		return err
	}
	defer unlock()
	n.sizeMu.Lock()
	defer n.sizeMu.Unlock()
	defer n.changed()
	if size < n.Size() {
		// Reads that find the end of the file compare it with the size.
		n.size.Store(size)
	}
	err = setLength(ctx, n.f, size, opt.Prealloc)
	if e := n.updateSize(); err == nil {
		err = e
	}
	return err
}

// resizeDevice checks that a device need not be resized.
func (n *node) resizeDevice(size int64, opt driver.ResizeOptions) error {
	switch {
	case opt.Prealloc != "" && opt.Prealloc != driver.PreallocOff:
		return driver.Errorf(driver.ErrUnsupported, "preallocation mode '%s' unsupported for this non-regular file", opt.Prealloc)
	case opt.Exact && size != n.Size():
		return driver.Errorf(driver.ErrUnsupported, "cannot resize device files")
	case size > n.Size():
		return driver.Errorf(driver.ErrInvalid, "cannot grow device files")
	}
	return nil
}

// setLength sets the length of a regular file and, when growing it, reserves or
// writes what it grows by. A file that cannot grow so keeps its old length.
func setLength(ctx context.Context, f *os.File, size int64, mode driver.Prealloc) error {
	st, err := f.Stat()
	if err != nil {
		return sysErrorf(err, "could not stat file")
	}
	old := st.Size()
	if mode == "" {
		mode = driver.PreallocOff
	}
	if size < old && mode != driver.PreallocOff {
		return driver.Errorf(driver.ErrUnsupported, "cannot use preallocation for shrinking files")
	}
	switch mode {
	case driver.PreallocOff:
		if err := f.Truncate(size); err != nil {
			return sysErrorf(err, "could not resize file")
		}
		if old == 0 {
			writeFirstBlock(f, size)
		}
		return nil
	case driver.PreallocFalloc:
		err = sysErrorf(reserve(ctx, f, old, size), "could not preallocate new data")
		if err == nil && old == 0 {
			writeFirstBlock(f, size)
		}
	case driver.PreallocFull:
		err = fill(ctx, f, old, size)
	default:
		return driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode: %s", mode)
	}
	if err != nil {
		if e := f.Truncate(old); e != nil {
			err = errors.Join(err, sysErrorf(e, "failed to restore old file length"))
		}
	}
	return err
}

// writeFirstBlock is best effort: its error is ignored.
func writeFirstBlock(f *os.File, size int64) {
	n := int64(firstBlock)
	if size < firstBlock {
		n = min(size, 512)
	}
	if n == 0 {
		return
	}
	b := bufpool.Get(int(n))
	clear(b)
	_, _ = f.WriteAt(b, 0)
	bufpool.Put(b)
}

// reserve makes sure of room for [from, to), and that it reads as zeroes.
func reserve(ctx context.Context, f *os.File, from, to int64) error {
	if from == to {
		return nil
	}
	err := allocateRange(f, from, to-from)
	if !errors.Is(err, driver.ErrUnsupported) {
		return err
	}
	return writeZeroes(ctx, f, from, to)
}

// fill writes zeroes to [from, to) and to disk. The length is set first, which
// lets file systems place the file in one piece.
func fill(ctx context.Context, f *os.File, from, to int64) error {
	if err := f.Truncate(to); err != nil {
		return sysErrorf(err, "could not resize file")
	}
	if err := writeZeroes(ctx, f, from, to); err != nil {
		return sysErrorf(err, "could not write zeros for preallocation")
	}
	return sysErrorf(f.Sync(), "could not flush file to disk")
}

func writeZeroes(ctx context.Context, f *os.File, from, to int64) error {
	b := bufpool.Get(fillSize)
	defer bufpool.Put(b)
	clear(b)
	for from < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.WriteAt(b[:min(to-from, fillSize-from%fillSize)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}
