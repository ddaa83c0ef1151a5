package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// allZero is the bitmap of an extended L2 entry whose subclusters all read as
// zeroes.
const allZero uint64 = 0xffffffff << 32

// Discard gives whole clusters back. Where backing data could show through they
// read as zeroes afterwards; version 2 cannot say so and refuses.
func (im *image) Discard(ctx context.Context, off, n int64) error {
	c0, c1, err := im.clusterRange(off, n)
	if err != nil {
		return err
	}
	if off&(im.clusterSize-1) != 0 || (off+n)&(im.clusterSize-1) != 0 && off+n != im.size.Load() {
		return driver.Errorf(driver.ErrUnsupported, "discard of %d bytes at %d is not aligned to clusters", n, off)
	}
	if im.version < 3 && im.hasBacking() {
		return driver.Errorf(driver.ErrUnsupported, "version 2 cannot discard clusters above a backing file")
	}
	if im.dataRaw {
		// The data file must go on reading the same by itself.
		return im.WriteZeroes(ctx, off, n, driver.ZeroMayUnmap)
	}
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	im.bm.Mark(off, n)
	return im.change(ctx, c0, c1, changeOptions{
		makeTables: im.hasBacking(),
		how:        discardRequest,
		edit: func(_ int64, old ondisk.L2Entry) (ondisk.L2Entry, bool) {
			return im.discarded(old)
		},
	})
}

// discarded returns what becomes of an L2 entry that is discarded, and whether
// its room is given up.
func (im *image) discarded(old ondisk.L2Entry) (ondisk.L2Entry, bool) {
	k := im.kind(old)
	allocated := k == kindNormal || k == kindZeroAlloc || k == kindCompressed
	if !im.hasBacking() && !allocated {
		return old, false
	}
	keep := im.opt.DiscardNoUnref && allocated && k != kindCompressed
	var e ondisk.L2Entry
	if keep {
		e.Desc = old.Desc
	}
	switch {
	case im.extended:
		e.Bitmap = allZero
	case im.version >= 3:
		e.Desc |= ondisk.FlagZero
	}
	return e, !keep
}

// clusterRange checks a range and returns the clusters that it touches.
func (im *image) clusterRange(off, n int64) (c0, c1 int64, err error) {
	if off < 0 || n < 0 || off > im.size.Load() || n > im.size.Load()-off {
		return 0, 0, driver.Errorf(driver.ErrRange, "%d bytes at %d: beyond the end of the disk", n, off)
	}
	return off >> im.clusterBits, im.clusters(off + n), nil
}

// changeOptions say how image.change works on a range.
type changeOptions struct {
	makeTables bool // also where there is no L2 table yet
	how        discardKind
	edit       func(c int64, old ondisk.L2Entry) (ondisk.L2Entry, bool)
}

// change edits the L2 entries of guest clusters [c0, c1), table by table.
func (im *image) change(ctx context.Context, c0, c1 int64, o changeOptions) error {
	if c0 >= c1 {
		return nil
	}
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	p, err := im.pend.Reserve(ctx, c0, c1)
	if err != nil {
		return err
	}
	defer im.pend.Remove(p)
	return im.changeReserved(ctx, c0, c1, o)
}

// changeReserved is change for a range that the caller has reserved.
func (im *image) changeReserved(ctx context.Context, c0, c1 int64, o changeOptions) error {
	perTable := int64(1) << im.l2Bits
	for c := c0; c < c1; {
		if err := ctx.Err(); err != nil {
			return err
		}
		next := min(c1, (c/perTable+1)*perTable)
		im.meta.RLock()
		table, _ := im.tableOffset(c / perTable)
		im.meta.RUnlock()
		if table == 0 && !o.makeTables {
			c = next
			continue
		}
		if err := im.relieve(ctx); err != nil {
			return err
		}
		if err := im.needTables(ctx, c, next); err != nil {
			return err
		}
		var punch []span
		_, err := im.editEntries(ctx, c, next, o.how, func(c int64, old ondisk.L2Entry) (ondisk.L2Entry, bool) {
			e, free := o.edit(c, old)
			// A cluster that keeps some of its subclusters keeps its bytes.
			data := im.extended && uint32(e.Bitmap) != 0
			if e != old && !data && im.inPlaceHole(old, free) {
				punch = addSpan(punch, hostOffset(old), im.clusterSize)
			}
			return e, free
		})
		if err == nil && len(punch) > 0 && im.encrypted() {
			// A hole would not be decrypted to zeroes: the entries must be on the disk
			// before it is made.
			err = im.Flush(ctx)
		}
		if err != nil {
			return err
		}
		im.punchData(ctx, punch)
		c = next
	}
	return nil
}

// inPlaceHole says whether a cluster keeps its place in the file that holds it
// but not its contents, so that the file can be told at once: no other guest
// cluster can be placed there.
func (im *image) inPlaceHole(old ondisk.L2Entry, free bool) bool {
	k := im.kind(old)
	return (k == kindNormal || k == kindZeroAlloc) && im.opt.PassDiscardRequest &&
		old.Desc&ondisk.FlagCopied != 0 && (free && im.external || !free && im.opt.DiscardNoUnref)
}

func addSpan(s []span, off, n int64) []span {
	if l := len(s); l > 0 && s[l-1].end == off {
		s[l-1].end += n
		return s
	}
	return append(s, span{off: off, end: off + n})
}

// punchData discards unused ranges in the data file. Errors do not
// matter.
func (im *image) punchData(ctx context.Context, spans []span) {
	d, ok := im.data.(driver.Discarder)
	if !ok {
		return
	}
	for _, s := range spans {
		if end := min(s.end, im.data.Size()); s.off < end {
			if d.Discard(ctx, s.off, end-s.off) != nil {
				return
			}
		}
	}
}
