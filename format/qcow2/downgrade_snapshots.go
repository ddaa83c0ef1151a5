package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/refcounts"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// expandSnapshots replaces the zero clusters of all internal snapshots, which
// version 2 cannot have: by nothing where there is no backing file, else by
// clusters of zeroes. One L2 table is changed at a time, in place: a snapshot reads
// the same at any moment. The active disk has none left.
func (im *image) expandSnapshots(ctx context.Context) error {
	seen := map[int64]bool{}
	for i := range im.snap.Entries {
		s := &im.snap.Entries[i]
		l1, err := im.readTable(ctx, int64(s.L1TableOffset), int64(s.L1Size))
		if err != nil {
			return err
		}
		if _, err := im.tablesOf(l1); err != nil {
			return err
		}
		for i, e := range l1 {
			off := int64(e & ondisk.OffsetMask)
			if off == 0 || seen[off] {
				continue
			}
			seen[off] = true
			if err := im.expandTable(ctx, off, int64(i)*im.l2Range()); err != nil {
				return err
			}
		}
	}
	return nil
}

// expandTable replaces the zero clusters of one L2 table of snapshots, which maps
// the disk from guest on. What it cannot finish it leaks at most.
func (im *image) expandTable(ctx context.Context, off, guest int64) error {
	b := make([]byte, im.clusterSize)
	if err := tableio.ReadPadded(ctx, im.file, b, off); err != nil {
		return err
	}
	if err := im.goodEntries(off, b); err != nil {
		return err
	}
	var zero []int
	var old []int64 // room that zero clusters have
	for i := range len(b) / 8 {
		e := ondisk.LoadL2(b, i, false)
		switch im.kind(e) {
		case kindZeroAlloc:
			old = append(old, hostOffset(e))
			zero = append(zero, i)
		case kindZeroPlain:
			zero = append(zero, i)
		}
	}
	if len(zero) == 0 {
		return nil
	}
	entries := make([]uint64, len(zero))
	if im.hasBacking() {
		if err := im.zeroClusters(ctx, guest, zero, entries); err != nil {
			return err
		}
	}
	for n, i := range zero {
		ondisk.StoreL2(b, i, false, ondisk.L2Entry{Desc: entries[n]})
	}
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	// The disk may just have got its own copy of the table: what it gave up is counted
	// only now.
	if err := im.writebackAll(ctx); err != nil {
		return err
	}
	// Every L1 table that names the table counts once for what the table names.
	im.alloc.mu.Lock()
	times, err := im.alloc.counts.Get(ctx, off>>im.clusterBits)
	im.alloc.mu.Unlock()
	if err != nil {
		return err
	}
	if times == 0 {
		return refcounts.ErrUncounted(off)
	}
	if times > 1 {
		up := refPass{im: im, limit: -1}
		for _, host := range entries {
			if host != 0 {
				if err := up.add(ctx, int64(host)>>im.clusterBits, 1, times-1); err != nil {
					return err
				}
			}
		}
		if err := up.apply(ctx); err != nil {
			return err
		}
		if err := im.flushRefcounts(ctx); err != nil {
			return err
		}
	}
	if what := im.overlapping(off, im.clusterSize); what != "" {
		return driver.Errorf(driver.ErrCorrupt, "the L2 table at offset %#x overlaps with %s", off, what)
	}
	if _, err := im.file.WriteAt(ctx, b, off); err != nil {
		return err
	}
	if err := im.file.Flush(ctx); err != nil {
		return err
	}
	im.reload(nil)
	down := refPass{im: im, down: true, limit: -1}
	for _, host := range old {
		if err := down.add(ctx, host>>im.clusterBits, 1, times); err != nil {
			return err
		}
	}
	if err := down.apply(ctx); err != nil {
		return err
	}
	return down.err
}

// zeroClusters allocates a cluster of zeroes for each of the entries, which have
// these places in a table that maps the disk from guest on.
func (im *image) zeroClusters(ctx context.Context, guest int64, places []int, entries []uint64) error {
	zeroes := make([]byte, im.clusterSize)
	for i := 0; i < len(entries); {
		host, got, _, err := im.allocRun(ctx, int64(len(entries)-i), 1)
		if err != nil {
			return err
		}
		for range got {
			off := guest + int64(places[i])<<im.clusterBits
			if _, err := im.child(off, host).WriteAt(ctx, zeroes, host); err != nil {
				return err
			}
			entries[i] = uint64(host)
			host += im.clusterSize
			i++
		}
	}
	return nil
}
