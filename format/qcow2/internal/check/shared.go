package check

import (
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// l1Table names an L1 table by its place and its number of entries.
type l1Table struct{ off, n int64 }

// pieceWords is how many entries of a snapshot's L1 table are in memory at once.
const pieceWords = 128 << 10

// countSnapshots counts the snapshot table and the tables of the snapshots.
// Tables that several snapshots share are read once.
func (c *checker) countSnapshots(fix driver.CheckFix) error {
	if c.dataFile && len(c.snapshots.entries) > 0 {
		c.corrupt("ERROR %d snapshots in image with data file", len(c.snapshots.entries))
	}
	l1Times := map[l1Table]uint64{}
	var tables []l1Table
	for i := range c.snapshots.entries {
		s := &c.snapshots.entries[i]
		if int64(s.L1TableOffset)&(c.cs-1) != 0 {
			c.corrupt("ERROR snapshot %s (%s) l1_offset=%s: L1 table is not cluster aligned; snapshot table entry corrupted",
				s.ID, s.Name, hex(s.L1TableOffset))
			continue
		}
		if s.L1Size > ondisk.MaxL1Bytes/8 {
			c.corrupt("ERROR snapshot %s (%s) l1_size=%s: L1 table is too large; snapshot table entry corrupted",
				s.ID, s.Name, hex(uint64(s.L1Size)))
			continue
		}
		t := l1Table{int64(s.L1TableOffset), int64(s.L1Size)}
		if l1Times[t]++; l1Times[t] == 1 && t.n > 0 {
			tables = append(tables, t)
		}
	}
	l2Times := map[int64]uint64{}
	var offsets []int64
	var l1Bytes int64
	for _, t := range tables {
		times := l1Times[t]
		if err := c.countTimes(t.off, t.n*8, times); err != nil {
			return err
		}
		// What is beyond the end of the file is zero.
		n := c.wordsInFile(t.off, t.n)
		if l1Bytes += n * 8; l1Bytes > 2*c.fileSize+c.cs {
			c.say("ERROR: the L1 tables of the snapshots overlap")
			c.res.CheckErrors++
			return errCheck(syscall.EINVAL)
		}
		for i := int64(0); i < n; i += pieceWords {
			l1, err := c.readL1(t.off+i*8, min(pieceWords, n-i))
			if err != nil {
				return err
			}
			for _, e := range l1 {
				if e == 0 {
					continue
				}
				if err := c.checkL1Entry(e, times, false); err != nil {
					return err
				}
				off := int64(e & ondisk.OffsetMask)
				if l2Times[off] == 0 && off < c.fileSize {
					offsets = append(offsets, off)
				}
				l2Times[off] += times
			}
		}
	}
	c.l2Reads = int64(len(offsets))
	if err := c.boundReads(); err != nil {
		return err
	}
	err := tableio.ReadTables(c.ctx, c.file, offsets, c.cs, func(i int, b []byte, err error) error {
		if err == nil {
			err = c.refresh(offsets[i], b)
		}
		if err != nil {
			c.say("ERROR: I/O error in check_refcounts_l2")
			c.res.CheckErrors++
			return errCheck(syscall.EIO)
		}
		return c.countTable(l2Check{off: offsets[i], b: b, times: l2Times[offsets[i]], fix: fix})
	})
	if err != nil {
		return err
	}
	return c.count(int64(c.hdr.SnapshotsOffset), c.snapshots.bytes)
}
