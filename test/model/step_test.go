package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// region picks a range of the disk, on sectors or not.
func (w *world) region() (off, n int64) {
	size := w.active.Size()
	off = w.r.Int64N(size)
	n = min(1+w.r.Int64N(pick(w.r, int64(600), 5000, 5000, 70000, 1<<20)), size-off)
	if w.r.IntN(2) == 0 {
		off &^= 511
		n = min((n+511)&^511, size-off)
	}
	return off, n
}

// put records that a range now holds p.
func (w *world) put(p []byte, off int64) {
	w.active.Write(p, off)
	w.later = append(w.later, change{off, p})
	w.markBitmaps(off, int64(len(p)))
}

// change records that a range now reads as p, by a request that need not have
// touched what did so already.
func (w *world) change(p []byte, off int64) {
	w.markChanged(off, w.active.Read(off, int64(len(p))), p)
	w.active.Write(p, off)
	w.later = append(w.later, change{off, p})
}

// step does one random operation on the open image.
func (w *world) step(ctx context.Context) error {
	w.ops++
	k := w.r.IntN(1000)
	off, n := w.region()
	at := fmt.Sprintf("%d+%d", off, n)
	switch {
	case k < 420:
		w.note("write %s", at)
		p := make([]byte, n)
		testkit.FillDisk(w.r, p)
		if _, err := w.img.WriteAt(ctx, p, off); err != nil {
			return w.fail("write: %w", err)
		}
		w.put(p, off)
	case k < 570:
		flags := driver.ZeroFlags(w.r.IntN(2))
		w.note("zero %d %s", flags, at)
		if err := w.img.WriteZeroes(ctx, off, n, flags); err != nil {
			return w.fail("zero: %w", err)
		}
		w.change(make([]byte, n), off)
	case k < 700:
		return w.discard(ctx, off, n)
	case k < 750:
		return w.compress(ctx, off)
	case k < 780:
		w.note("flush")
		return w.flush(ctx)
	case k < 940:
		w.note("read %s", at)
		return w.read(ctx, off, n)
	case k < 970:
		return w.snapshotStep(ctx)
	case k < 980:
		return w.resize(ctx)
	default:
		return w.bitmapStep(ctx)
	}
	return nil
}

func (w *world) flush(ctx context.Context) error {
	if err := w.img.Flush(ctx); err != nil {
		return w.fail("flush: %w", err)
	}
	w.flushed()
	return nil
}

func (w *world) read(ctx context.Context, off, n int64) error {
	got := make([]byte, n)
	if _, err := w.img.ReadAt(ctx, got, off); err != nil {
		return w.fail("read: %w", err)
	}
	if d := w.active.Diff(got, off); d != "" {
		return w.fail("read: %s", d)
	}
	return nil
}

// discard leaves whole clusters as it likes, zero or as they were, and the rest
// alone.
func (w *world) discard(ctx context.Context, off, n int64) error {
	w.note("discard %d+%d", off, n)
	if err := w.img.Discard(ctx, off, n); err != nil {
		return w.fail("discard: %w", err)
	}
	got := make([]byte, n)
	if _, err := w.img.ReadAt(ctx, got, off); err != nil {
		return w.fail("read what was discarded: %w", err)
	}
	cs := w.img.Limits().ClusterSize
	start, end := (off+cs-1)/cs*cs, (off+n)/cs*cs
	if off+n == w.active.Size() {
		end = off + n
	}
	want := w.active.Read(off, n)
	for c := start; c < end; c += cs {
		in, out := c-off, min(c+cs, end)-off
		if part := got[in:out]; len(bytes.Trim(part, "\x00")) == 0 {
			clear(want[in:out])
		}
	}
	if !bytes.Equal(got, want) {
		return w.fail("discard of %d+%d: a cluster is neither zero nor as it was", off, n)
	}
	w.change(got, off)
	if w.onDiscard != nil {
		w.onDiscard(off, n)
	}
	return nil
}

// compress stores a cluster compressed, where the image can.
func (w *world) compress(ctx context.Context, off int64) error {
	cs := w.img.Limits().ClusterSize
	off = off / cs * cs
	n := min(cs, w.active.Size()-off)
	p := make([]byte, cs)
	testkit.FillDisk(w.r, p)
	clear(p[n:])
	if !w.img.CanCompress() || w.encrypt != "" || w.dataFile {
		return nil
	}
	if err := w.discard(ctx, off, n); err != nil {
		return err
	}
	enc, ok, err := w.img.Encode(nil, p)
	if err != nil {
		return w.fail("encode: %w", err)
	}
	if !ok {
		return nil
	}
	w.note("compressed %d+%d", off, n)
	switch err := w.img.WriteEncoded(ctx, off, enc); {
	case err == nil:
		w.put(p[:n], off)
	case !strings.Contains(err.Error(), "already allocated"):
		return w.fail("write compressed: %w", err)
	}
	return nil
}

func (w *world) resize(ctx context.Context) error {
	size := w.active.Size()
	next := max(4096, size+(w.r.Int64N(1<<20)-1<<19)&^511)
	next = min(next, 8<<20)
	mode := driver.PreallocOff
	if next > size {
		mode = pick(w.r, driver.PreallocOff, driver.PreallocOff, driver.PreallocMetadata, driver.PreallocFalloc, driver.PreallocFull)
	}
	w.note("resize %s to %d", mode, next)
	if err := w.img.Resize(ctx, next, driver.ResizeOptions{Prealloc: mode}); err != nil {
		if (mode != driver.PreallocOff || w.v2 && len(w.kept) > 0) && errors.Is(err, driver.ErrUnsupported) {
			w.note("refused: %v", err)
			return nil
		}
		return w.fail("resize: %w", err)
	}
	w.active.Resize(next)
	w.resizeBitmaps(size, next)
	return w.flush(ctx)
}

// snapshotStep creates, applies or deletes a snapshot.
func (w *world) snapshotStep(ctx context.Context) error {
	if !w.snapshot {
		return nil
	}
	switch k := w.r.IntN(4); {
	case len(w.kept) == 0 || k < 2 && len(w.kept) < 4:
		name := fmt.Sprintf("snap %d", w.next)
		w.next++
		w.note("create %s", name)
		id, err := w.img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: name, Date: time.Unix(1700000000, 0)})
		if tooMany(err) {
			return nil
		}
		if err != nil {
			return w.fail("snapshot: %w", err)
		}
		w.kept = append(w.kept, kept{id, name, w.active.Clone()})
	case k == 2:
		s := w.kept[w.r.IntN(len(w.kept))]
		w.note("apply %s", s.name)
		err := w.img.Snapshots().Apply(ctx, s.id)
		if len(w.bitmaps) > 0 {
			if err == nil {
				return w.fail("a snapshot was applied to an image with bitmaps")
			}
			return nil
		}
		if tooMany(err) {
			return nil
		}
		if err != nil {
			return w.fail("apply: %w", err)
		}
		w.active = s.content.Clone()
	default:
		i := w.r.IntN(len(w.kept))
		w.note("delete %s", w.kept[i].name)
		if err := w.img.Snapshots().Delete(ctx, w.kept[i].id, w.kept[i].name); err != nil {
			return w.fail("delete snapshot: %w", err)
		}
		w.kept = slices.Delete(w.kept, i, i+1)
	}
	return w.flush(ctx)
}

// tooMany tells whether narrow refcounts cannot count another snapshot: compressed
// clusters share theirs.
func tooMany(err error) bool {
	return err != nil && strings.Contains(err.Error(), "more references than")
}
