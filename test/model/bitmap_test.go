package model

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
)

// bitmap is what a dirty bitmap must say: at least these granules are dirty.
type bitmap struct {
	name    string
	unit    int64
	enabled bool
	dirty   map[int64]bool
	may     map[int64]bool // may be dirty or not
	// restarted: its bits were unset, or it was switched on or off, since the image
	// was opened.
	restarted bool
	// loose: more may be dirty than the model knows.
	loose bool
}

func (b *bitmap) mark(off, n int64) {
	if n <= 0 {
		return
	}
	for g := off / b.unit; g <= (off+n-1)/b.unit; g++ {
		b.dirty[g] = true
	}
}

// markBitmaps notes a write.
func (w *world) markBitmaps(off, n int64) {
	for _, b := range w.bitmaps {
		if b.enabled {
			b.mark(off, n)
		}
	}
}

// markChanged notes a request that need not do anything where the disk reads as it
// should already: only what it changes must be dirty.
func (w *world) markChanged(off int64, old, p []byte) {
	for _, b := range w.bitmaps {
		if !b.enabled {
			continue
		}
		for i := int64(0); i < int64(len(p)); {
			n := min(b.unit-(off+i)%b.unit, int64(len(p))-i)
			if !bytes.Equal(old[i:i+n], p[i:i+n]) {
				b.mark(off+i, n)
			} else if g := (off + i) / b.unit; !b.dirty[g] {
				b.may[g] = true
			}
			i += n
		}
	}
}

// resizeBitmaps forgets what lies behind the end. What is new may be dirty: hiding
// a backing file there is a change.
func (w *world) resizeBitmaps(old, size int64) {
	for _, b := range w.bitmaps {
		for g := old / b.unit; g*b.unit < size; g++ {
			b.may[g] = true
		}
		for g := range b.dirty {
			if g*b.unit >= size {
				delete(b.dirty, g)
			}
		}
	}
}

// bitmapStep changes the bitmaps.
func (w *world) bitmapStep(ctx context.Context) error {
	keeper, ok := w.img.Tree().Node().(driver.Bitmapper)
	if !ok || w.v2 {
		return nil
	}
	if len(w.bitmaps) == 0 || w.r.IntN(4) == 0 && len(w.bitmaps) < 3 {
		b := &bitmap{name: fmt.Sprintf("b%d", w.next), unit: 512 << w.r.IntN(9), enabled: w.r.IntN(4) > 0, dirty: map[int64]bool{}, may: map[int64]bool{}, restarted: true}
		w.next++
		w.note("add bitmap %s, granularity %d, enabled %v", b.name, b.unit, b.enabled)
		err := keeper.AddBitmap(ctx, driver.BitmapSpec{Name: b.name, Granularity: b.unit, Disabled: !b.enabled})
		if noRoom(err) {
			return nil
		}
		if err != nil {
			return w.fail("add bitmap: %w", err)
		}
		w.bitmaps = append(w.bitmaps, b)
		return nil
	}
	i := w.r.IntN(len(w.bitmaps))
	b := w.bitmaps[i]
	var err error
	switch w.r.IntN(6) {
	case 0, 1:
		w.note("remove bitmap %s", b.name)
		err = keeper.RemoveBitmap(ctx, b.name)
		w.bitmaps = slices.Delete(w.bitmaps, i, i+1)
	case 2:
		w.note("clear bitmap %s", b.name)
		err = keeper.ClearBitmap(ctx, b.name)
		clear(b.dirty)
		clear(b.may)
		b.restarted, b.loose = true, false
	case 3:
		b.enabled, b.restarted = !b.enabled, true
		w.note("bitmap %s: enabled %v", b.name, b.enabled)
		err = keeper.EnableBitmap(ctx, b.name, b.enabled)
	case 4:
		off, n := w.region()
		w.note("set bitmap %s %d+%d", b.name, off, n)
		err = keeper.SetBitmap(ctx, b.name, off, n)
		b.mark(off, n)
	default:
		return w.readBitmap(ctx, keeper, b)
	}
	if err != nil {
		return w.fail("bitmap %s: %w", b.name, err)
	}
	return nil
}

// readBitmap compares a bitmap with the model: what must be dirty is, and nothing
// else but in clusters that a request touched.
func (w *world) readBitmap(ctx context.Context, keeper driver.Bitmapper, b *bitmap) error {
	size := w.active.Size()
	near := max(1, w.img.Limits().ClusterSize/b.unit)
	for off := int64(0); off < size; {
		n, dirty, err := keeper.BitmapExtent(ctx, b.name, off, size-off)
		if err != nil || n <= 0 {
			return w.fail("bitmap %s at %d: %d bytes, %w", b.name, off, n, err)
		}
		for g := off / b.unit; g*b.unit < off+n; g++ {
			if b.dirty[g] && !dirty {
				return w.fail("bitmap %s has lost a write at %d", b.name, g*b.unit)
			}
			if dirty && !b.dirty[g] && !b.loose {
				c := g / near * near
				touched := slices.ContainsFunc([]int64{-1, 0, 1}, func(d int64) bool {
					for i := range near {
						if g := c + d*near + i; b.dirty[g] || b.may[g] {
							return true
						}
					}
					return false
				})
				if !touched {
					return w.fail("bitmap %s calls %d dirty, far from every change", b.name, g*b.unit)
				}
			}
		}
		off += n
	}
	return nil
}

// verifyBitmaps compares the list of bitmaps and what they say. After a crash they
// may be inconsistent; those are removed.
func (w *world) verifyBitmaps(ctx context.Context, crashed bool) error {
	keeper, ok := w.img.Tree().Node().(driver.Bitmapper)
	if !ok || w.v2 {
		return nil
	}
	list, err := keeper.Bitmaps(ctx)
	if err != nil {
		return w.fail("list bitmaps: %w", err)
	}
	if crashed {
		return w.bitmapsAfterCrash(ctx, keeper, list)
	}
	if len(list) != len(w.bitmaps) {
		return w.fail("%d bitmaps, not %d: %+v", len(list), len(w.bitmaps), list)
	}
	for _, b := range w.bitmaps {
		i := slices.IndexFunc(list, func(x driver.BitmapInfo) bool { return x.Name == b.name })
		if i < 0 || list[i].Granularity != b.unit || list[i].Enabled != b.enabled || list[i].Inconsistent {
			return w.fail("bitmap %s (granularity %d, enabled %v) is listed as %+v", b.name, b.unit, b.enabled, list)
		}
		if err := w.readBitmap(ctx, keeper, b); err != nil {
			return err
		}
	}
	return nil
}

// bitmapsAfterCrash removes what the crash left of the bitmaps: those that exist
// are inconsistent, unless nothing was changed since the image was opened.
func (w *world) bitmapsAfterCrash(ctx context.Context, keeper driver.Bitmapper, list []driver.BitmapInfo) error {
	for _, x := range list {
		i := slices.IndexFunc(w.bitmaps, func(b *bitmap) bool { return b.name == x.Name })
		if !x.Inconsistent && i >= 0 {
			if err := w.consistentAfterCrash(ctx, keeper, w.bitmaps[i]); err != nil {
				return err
			}
		}
		if err := keeper.RemoveBitmap(ctx, x.Name); err != nil {
			return w.fail("remove bitmap %s after a crash: %w", x.Name, err)
		}
	}
	w.bitmaps = nil
	return nil
}

// consistentAfterCrash: a bitmap that claims to be true after a crash knows every
// change of this session that reached the disk.
func (w *world) consistentAfterCrash(ctx context.Context, keeper driver.Bitmapper, b *bitmap) error {
	if b.restarted || w.atOpen.Size() != w.active.Size() || !b.enabled {
		return nil
	}
	size := w.active.Size()
	for off := int64(0); off < size; {
		n, dirty, err := keeper.BitmapExtent(ctx, b.name, off, size-off)
		if err != nil || n <= 0 {
			return w.fail("bitmap %s at %d after a crash: %d bytes, %w", b.name, off, n, err)
		}
		if !dirty {
			if d := w.atOpen.Diff(w.active.Read(off, n), off); d != "" {
				return w.fail("bitmap %s claims to be true after a crash, but what it calls clean has changed: %s", b.name, d)
			}
		}
		off += n
	}
	return nil
}
