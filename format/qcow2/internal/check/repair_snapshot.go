package check

import (
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// fixSnapshotTable writes the snapshot table anew if entries were found
// incomplete or had to be dropped. The new table is elsewhere; the header
// then refers to it in one write.
func (c *checker) fixSnapshotTable(res *snapshotResult) error {
	if res.corruptions == 0 || !c.fix.Errors {
		return nil
	}
	fail := func(err error) error {
		c.say("ERROR failed to update snapshot table: %s", c.words(err))
		res.errors++
		return errCheck(err)
	}
	var table []byte
	for i := range c.snapshots.entries {
		table = c.snapshots.entries[i].Append(table, c.hdr.Size)
	}
	n := c.clusters(int64(len(table)))
	start := int64(0)
	if n > 0 {
		var ok bool
		if start, ok = c.freeRun(n); !ok {
			return fail(driver.ErrNoSpace)
		}
		if err := c.setRefcounts(start, n, 1); err != nil {
			return fail(err)
		}
		table = append(table, make([]byte, n<<c.hdr.ClusterBits-int64(len(table)))...)
		if err := c.write(start<<c.hdr.ClusterBits, table); err != nil {
			return fail(err)
		}
		if err := c.file.Flush(c.ctx); err != nil {
			return fail(err)
		}
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(c.snapshots.entries)))
	b = binary.BigEndian.AppendUint64(b, uint64(start)<<c.hdr.ClusterBits)
	if err := c.writeHeader(ondisk.SnapshotsOffset, b); err != nil {
		return fail(err)
	}
	if err := c.file.Flush(c.ctx); err != nil {
		return fail(err)
	}
	old := clusterSpan{int64(c.hdr.SnapshotsOffset), c.snapshots.bytes}
	c.hdr.NbSnapshots, c.hdr.SnapshotsOffset = uint32(len(c.snapshots.entries)), uint64(start)<<c.hdr.ClusterBits
	// A table that reaches beyond the end of the file was not counted.
	if old.n > 0 && old.off+old.n-c.fileSize < c.cs {
		if err := c.setRefcounts(old.off>>c.hdr.ClusterBits, c.clusters(old.n), 0); err != nil {
			return fail(err)
		}
	}
	res.fixed += res.corruptions
	res.corruptions = 0
	return nil
}

// freeRun finds n neighbouring clusters that nothing refers to and that are
// covered by refcount blocks.
func (c *checker) freeRun(n int64) (start int64, ok bool) {
	run := int64(0)
	for k := range c.reftable {
		off, bad := c.blockOffset(int64(k))
		if off == 0 || bad {
			run = 0
			continue
		}
		for i := int64(k) << c.blockBits; i < int64(k+1)<<c.blockBits; i++ {
			if c.counts.get(i) != 0 {
				run = 0
				continue
			}
			if run++; run == n {
				return i - n + 1, true
			}
		}
	}
	return 0, false
}

// setRefcounts writes the refcount v for n clusters from start. Where v is zero
// it lowers refcounts by one instead.
func (c *checker) setRefcounts(start, n int64, v uint64) error {
	for i := start; i < start+n; {
		end := min(start+n, (i>>c.blockBits+1)<<c.blockBits)
		off, bad := c.blockOffset(i >> c.blockBits)
		if off == 0 || bad {
			i = end
			continue
		}
		b := make([]byte, c.cs)
		if err := tableio.ReadPadded(c.ctx, c.file, b, off); err != nil {
			return err
		}
		for ; i < end; i++ {
			j := int(i & (1<<c.blockBits - 1))
			w := v
			if old := ondisk.GetRefcount(b, j, c.hdr.RefcountOrder); v == 0 && old > 0 {
				w = old - 1
			}
			ondisk.SetRefcount(b, j, c.hdr.RefcountOrder, w)
		}
		if err := c.write(off, b); err != nil {
			return err
		}
	}
	return nil
}
