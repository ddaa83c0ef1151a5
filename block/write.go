package block

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/trace"
	"github.com/cowl-disk/cowl/internal/zero"
)

// cowMerge is the largest write, edges included, that goes through one buffer
// and one request instead of three.
const cowMerge = 2 << 20

// WriteAt writes p at offset off, within the disk. On error any part of the
// range may have been written.
func (img *Image) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	trace.BdrvCoPwritev.Log(off, int64(len(p)))
	if err := img.checkWritable("write", off); err != nil {
		return 0, err
	}
	if img.storage != nil {
		// Storage grows when a format writes beyond its end.
		if off < 0 {
			return 0, img.bounds("write", off, int64(len(p)))
		}
		n, err := img.writeStorage(ctx, p, off)
		if err == nil && img.cache.WriteThrough {
			err = img.storage.Flush(ctx)
		}
		return n, img.fail("write", off, err)
	}
	img.changing.RLock()
	defer img.changing.RUnlock()
	return img.writeDisk(ctx, p, off)
}

// writeDisk is WriteAt of a format. changing is held.
func (img *Image) writeDisk(ctx context.Context, p []byte, off int64) (int, error) {
	if err := img.bounds("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	if img.detect != detectOff && len(p) > 0 && zero.IsZero(p) {
		var flags driver.ZeroFlags
		if img.detect == detectUnmap {
			flags = driver.ZeroMayUnmap
		}
		return len(p), img.zeroDisk(ctx, off, int64(len(p)), flags)
	}
	if img.probedRaw && off < probeGuard {
		img.start.Lock()
		defer img.start.Unlock()
		if err := img.guardProbe(ctx, p, off); err != nil {
			return 0, err
		}
	}
	e := img.guard.Enter()
	n, err := img.writeFormat(ctx, p, off, nil)
	img.guard.Exit(e)
	if err == nil && img.cache.WriteThrough {
		err = img.Flush(ctx)
	}
	return n, err
}

// writeFormat writes a range within the disk, inside the guard. allocated, if
// not nil, is called whenever room has been reserved.
func (img *Image) writeFormat(ctx context.Context, p []byte, off int64, allocated func()) (int, error) {
	if img.allocator == nil {
		return 0, img.fail("write", off, driver.Errorf(driver.ErrUnsupported, "the format %s cannot be written", img.desc.Name))
	}
	done := 0
	for done < len(p) {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		img.lock()
		t, err := img.allocator.Allocate(ctx, off, int64(len(p)-done))
		img.unlock()
		if err != nil {
			return done, img.fail("write", off, err)
		}
		if allocated != nil {
			allocated()
		}
		q := p[done:]
		q = q[:min(t.Length, int64(len(q)))]
		if img.Tree().PassedThrough() != nil {
			img.events.Raise("write_aio") // formats with clusters raise theirs
		}
		if t.Pending == nil {
			_, err = t.Child.WriteAt(ctx, q, t.HostOffset)
		} else {
			err = img.writePending(ctx, q, off, t)
		}
		if err != nil {
			return done, img.fail("write", off, err)
		}
		done, off = done+len(q), off+int64(len(q))
	}
	return done, nil
}

// writePending writes data and copy-on-write edges to a new allocation and
// commits it.
func (img *Image) writePending(ctx context.Context, p []byte, off int64, t driver.WriteTarget) error {
	err := img.fillTarget(ctx, p, off, t)
	img.lock()
	defer img.unlock()
	if err != nil {
		t.Pending.Abort(context.WithoutCancel(ctx))
		return err
	}
	// The data are in place: linking them is not cut short by a cancellation.
	return t.Pending.Commit(context.WithoutCancel(ctx))
}

func (img *Image) fillTarget(ctx context.Context, p []byte, off int64, t driver.WriteTarget) error {
	n := int64(len(p))
	head, tail := t.Head, t.Tail
	if t.ZeroFilled {
		if head > 0 {
			zero, err := img.ReadsZero(ctx, off-head, head)
			if err != nil {
				return err
			}
			if zero {
				head = 0
			}
		}
		if tail > 0 {
			zero, err := img.ReadsZero(ctx, off+n, min(tail, max(0, img.Size()-off-n)))
			if err != nil {
				return err
			}
			if zero {
				tail = 0
			}
		}
	}
	if head == 0 && tail == 0 {
		_, err := t.Child.WriteAt(ctx, p, t.HostOffset)
		return err
	}
	if total := head + n + tail; total <= cowMerge {
		buf := bufpool.Get(int(total))
		defer bufpool.Put(buf)
		if err := img.readEdge(ctx, buf[:head], off-head); err != nil {
			return err
		}
		copy(buf[head:], p)
		if err := img.readEdge(ctx, buf[head+n:], off+n); err != nil {
			return err
		}
		_, err := t.Child.WriteAt(ctx, buf, t.HostOffset-head)
		return err
	}
	if err := img.copyEdge(ctx, t.Child, off-head, head, t.HostOffset-head); err != nil {
		return err
	}
	if _, err := t.Child.WriteAt(ctx, p, t.HostOffset); err != nil {
		return err
	}
	return img.copyEdge(ctx, t.Child, off+n, tail, t.HostOffset+n)
}

// readEdge reads what the guest sees; beyond the end of the disk are zeroes.
func (img *Image) readEdge(ctx context.Context, p []byte, off int64) error {
	in := max(0, min(int64(len(p)), img.Size()-off))
	clear(p[in:])
	if in == 0 {
		return nil
	}
	return img.readFormat(ctx, p[:in], off)
}

func (img *Image) copyEdge(ctx context.Context, child driver.Storage, off, n, host int64) error {
	if n == 0 {
		return nil
	}
	buf := bufpool.Get(int(min(n, cowMerge)))
	defer bufpool.Put(buf)
	for n > 0 {
		b := buf[:min(n, int64(len(buf)))]
		if err := img.readEdge(ctx, b, off); err != nil {
			return err
		}
		if _, err := child.WriteAt(ctx, b, host); err != nil {
			return err
		}
		off, host, n = off+int64(len(b)), host+int64(len(b)), n-int64(len(b))
	}
	return nil
}

// canCopyFrom says whether a child may be able to copy from src.
func (img *Image) canCopyFrom(ctx context.Context, src driver.Storage, mode driver.CopyMode) bool {
	for _, c := range img.children {
		if _, err := c.Image.CopyFrom(ctx, src, 0, 0, 0, mode); err == nil {
			return true
		}
	}
	return false
}

func (img *Image) copyOnce(ctx context.Context, src driver.Storage, srcOff, off, n int64, mode driver.CopyMode) (int64, error) {
	img.lock()
	t, err := img.allocator.Allocate(ctx, off, n)
	img.unlock()
	if err != nil {
		return 0, img.fail("copy", off, err)
	}
	c, ok := t.Child.(driver.RangeCopier)
	if !ok || t.Head != 0 || t.Tail != 0 {
		err = driver.ErrUnsupported
	} else {
		var m int64
		for m < t.Length && err == nil {
			var k int64
			k, err = c.CopyFrom(ctx, src, srcOff+m, t.HostOffset+m, t.Length-m, mode)
			m += k
		}
	}
	if t.Pending == nil {
		if err != nil {
			return 0, err
		}
		return t.Length, nil
	}
	img.lock()
	defer img.unlock()
	if err != nil {
		t.Pending.Abort(context.WithoutCancel(ctx))
		return 0, err
	}
	return t.Length, t.Pending.Commit(context.WithoutCancel(ctx))
}
