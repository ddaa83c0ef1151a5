package block

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/trace"
)

// Transfer has the requests of jobs that move a whole disk: copies by the
// system, writes that take their room in the caller's order, hints. Requests of Image
// and of Transfer may be mixed.
type Transfer struct{ img *Image }

// Transfer returns the requests of jobs that move a whole disk.
func (img *Image) Transfer() Transfer { return Transfer{img} }

// CopyRange copies n bytes of src at srcOff to off on the disk without moving
// them through this process, as far as mode and the systems below allow. It
// returns how much it copied; with ErrUnsupported the caller copies the rest
// itself.
func (t Transfer) CopyRange(ctx context.Context, src driver.Storage, srcOff, off, n int64, mode driver.CopyMode) (int64, error) {
	img := t.img
	trace.BdrvCoCopyRange.Log(srcOff, off, n)
	if img.storage != nil {
		return img.CopyFrom(ctx, src, srcOff, off, n, mode)
	}
	if err := img.checkWritable("copy", off); err != nil {
		return 0, err
	}
	img.changing.RLock()
	defer img.changing.RUnlock()
	if err := img.bounds("copy", off, n); err != nil {
		return 0, err
	}
	if img.allocator == nil || img.probedRaw {
		return 0, driver.ErrUnsupported
	}
	if !img.canCopyFrom(ctx, src, mode) {
		return 0, driver.ErrUnsupported // before room is taken that is left empty
	}
	e := img.guard.Enter()
	defer img.guard.Exit(e)
	done := int64(0)
	for done < n {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		m, err := img.copyOnce(ctx, src, srcOff+done, off+done, n-done, mode)
		done += m
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// WriteAtOrdered is WriteAt for callers that write from several goroutines and
// want the room on disk in their order: it calls allocated, once, as soon as the
// room for the first part of the range is reserved, and in any case before it
// returns.
func (t Transfer) WriteAtOrdered(ctx context.Context, p []byte, off int64, allocated func()) (int, error) {
	img := t.img
	if img.format == nil || img.allocator == nil || img.probedRaw || img.detect != detectOff {
		allocated()
		return img.WriteAt(ctx, p, off)
	}
	done := false
	pass := func() {
		if !done {
			done = true
			allocated()
		}
	}
	defer pass()
	if err := img.checkWritable("write", off); err != nil {
		return 0, err
	}
	img.changing.RLock()
	defer img.changing.RUnlock()
	if err := img.bounds("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	e := img.guard.Enter()
	n, err := img.writeFormat(ctx, p, off, pass)
	img.guard.Exit(e)
	if err == nil && img.cache.WriteThrough {
		err = img.Flush(ctx)
	}
	return n, err
}

// ExpectNewData tells the image and its children, the backing file excepted, that a
// job begins which writes much data where there are none. It is a hint that lets the
// storage prepare.
func (t Transfer) ExpectNewData() {
	img := t.img
	if !img.writable {
		return
	}
	if s, ok := img.node.(driver.NewDataExpecter); ok {
		s.ExpectNewData()
	}
	for _, c := range img.children {
		c.Image.Transfer().ExpectNewData()
	}
}

// StartWriteback asks the system to begin to write to the devices what it holds
// back of this image and its children, the backing file excepted. It is a hint for
// long jobs that end with Flush; it makes nothing durable.
func (t Transfer) StartWriteback() {
	img := t.img
	if !img.writable {
		return
	}
	if s, ok := img.node.(driver.WritebackStarter); ok {
		s.StartWriteback()
	}
	for _, c := range img.children {
		c.Image.Transfer().StartWriteback()
	}
}
