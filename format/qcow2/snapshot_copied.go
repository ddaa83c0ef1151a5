package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// syncCopied makes the copied flags of the L2 tables t agree with the refcounts,
// in the file. The refcounts are durable, all metadata is in the file, flushMu is
// held and the disk does not change. The cache of L2 slices must be emptied
// afterwards. A table that is shared has no flags: a writer copies it
// first.
func (im *image) syncCopied(ctx context.Context, t namedTables) error {
	a := &im.alloc
	return tableio.ReadTables(ctx, im.file, t.offsets, im.clusterSize, func(i int, b []byte, err error) error {
		if err != nil {
			return err
		}
		changed, err := a.copiedFlags(ctx, t.offsets[i], b)
		if err != nil || !changed {
			return err
		}
		_, err = im.file.WriteAt(ctx, b, t.offsets[i])
		return err
	})
}

// copiedFlags corrects the flags in the L2 table b at off.
func (a *allocator) copiedFlags(ctx context.Context, off int64, b []byte) (changed bool, err error) {
	im := a.im
	a.mu.Lock()
	defer a.mu.Unlock()
	get := a.counts.Reader()
	n, err := get(ctx, off>>im.clusterBits)
	if err != nil {
		return false, err
	}
	own := n == 1
	for i := range len(b) / int(im.l2EntrySize) {
		e := ondisk.LoadL2(b, i, im.extended)
		if k := im.kind(e); k != kindNormal && k != kindZeroAlloc {
			continue
		}
		want := false
		if own {
			if n, err = get(ctx, hostOffset(e)>>im.clusterBits); err != nil {
				return false, err
			}
			want = n == 1
		}
		if want != (e.Desc&ondisk.FlagCopied != 0) {
			e.Desc ^= ondisk.FlagCopied
			ondisk.StoreL2(b, i, im.extended, e)
			changed = true
		}
	}
	return changed, nil
}

// copiedL1 returns l1 with copied flags that agree with the refcounts.
func (im *image) copiedL1(ctx context.Context, l1 []uint64) ([]uint64, error) {
	a := &im.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	get := a.counts.Reader()
	out := make([]uint64, len(l1))
	for i, e := range l1 {
		if off := int64(e & ondisk.OffsetMask); off != 0 {
			n, err := get(ctx, off>>im.clusterBits)
			if err != nil {
				return nil, err
			}
			e &^= ondisk.FlagCopied
			if n == 1 {
				e |= ondisk.FlagCopied
			}
		}
		out[i] = e
	}
	return out, nil
}
