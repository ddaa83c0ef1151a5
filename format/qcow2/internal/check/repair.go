package check

import (
	"encoding/binary"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// write writes metadata. It never touches the header: whatever an image says of
// itself, repair does not turn it into something else.
func (c *checker) write(off int64, b []byte) error {
	if off < c.cs {
		return errCheck(syscall.EIO)
	}
	c.changed = true
	_, err := c.file.WriteAt(c.ctx, b, off)
	return err
}

// writeHeader writes a field of the header.
func (c *checker) writeHeader(off int64, b []byte) error {
	c.changed = true
	_, err := c.file.WriteAt(c.ctx, b, off)
	return err
}

// writeTable writes a part of an L2 table.
func (c *checker) writeTable(off int64, b []byte) error {
	if c.rewritten == nil {
		c.rewritten = map[int64]bool{}
	}
	for k := off >> c.hdr.ClusterBits; k <= (off+int64(len(b))-1)>>c.hdr.ClusterBits; k++ {
		c.rewritten[k] = true
	}
	return c.write(off, b)
}

// refresh reads the L2 table b at off again if it was written since.
func (c *checker) refresh(off int64, b []byte) error {
	first := off >> c.hdr.ClusterBits
	if len(c.rewritten) == 0 || !c.rewritten[first] && !c.rewritten[first+1] {
		return nil
	}
	return tableio.ReadPadded(c.ctx, c.file, b, off)
}

func (c *checker) writeWord(off int64, v uint64) error {
	return c.write(off, binary.BigEndian.AppendUint64(nil, v))
}

// discard gives the room of clusters back to the file system once it is
// durable that they are free. It is no error if that is not possible.
func (c *checker) discard(spans []clusterSpan) error {
	d, ok := c.file.(driver.Discarder)
	if len(spans) == 0 || !ok {
		return nil
	}
	if err := c.file.Flush(c.ctx); err != nil {
		return err
	}
	for i := 0; i < len(spans); {
		s := spans[i]
		for i++; i < len(spans) && spans[i].off == s.off+s.n; i++ {
			s.n += spans[i].n
		}
		if s.n = min(s.n, c.fileSize-s.off); s.n > 0 && d.Discard(c.ctx, s.off, s.n) != nil {
			return nil
		}
	}
	return nil
}

// metadataArea is a set of kinds of metadata.
type metadataArea uint8

const (
	areaHeader metadataArea = 1 << iota
	areaActiveL1
	areaActiveL2
	areaRefcountTable
	areaRefcountBlock
	areaSnapshotTable
	areaInactiveL1
)

// overlaps returns which metadata, apart from the ignored kinds, [off, off+n)
// shares clusters with. It does not rely on refcounts.
func (c *checker) overlaps(off, n int64, ignore metadataArea) metadataArea {
	start, end := off&^(c.cs-1), tableio.AlignUp(off+n, c.cs)
	var found metadataArea
	look := func(area metadataArea, at, size int64) {
		if area&ignore == 0 && size > 0 && at < end && at+size > start {
			found |= area
		}
	}
	look(areaHeader, 0, c.cs)
	look(areaActiveL1, int64(c.hdr.L1TableOffset), int64(c.hdr.L1Size)*8)
	look(areaRefcountTable, int64(c.hdr.RefcountTableOffset), c.reftableBytes())
	look(areaSnapshotTable, int64(c.hdr.SnapshotsOffset), c.snapshots.bytes)
	for i := range c.snapshots.entries {
		s := &c.snapshots.entries[i]
		look(areaInactiveL1, int64(s.L1TableOffset), int64(s.L1Size)*8)
	}
	if ignore&areaActiveL2 == 0 {
		for _, e := range c.l1 {
			if at := int64(e & ondisk.OffsetMask); at != 0 {
				look(areaActiveL2, at, c.cs)
			}
		}
	}
	for _, e := range c.reftable {
		// An entry that cannot be right names no block.
		if at := int64(e); at > 0 && at&(c.cs-1) == 0 {
			look(areaRefcountBlock, at, c.cs)
		}
	}
	return found
}

// zeroEntry makes the cluster of an L2 entry that points at no cluster, and
// holds no data, one that reads as zeroes without having room.
func (t *l2Check) zeroEntry(i int, e ondisk.L2Entry) (fixed bool, err error) {
	c := t.checker
	n := ondisk.L2Entry{Desc: ondisk.FlagZero}
	if c.hdr.ExtendedL2() {
		n = ondisk.L2Entry{Bitmap: (e.Bitmap | e.Bitmap<<32) &^ (1<<32 - 1)}
	}
	at := t.off + int64(i)*c.entrySize
	ignore := areaActiveL2
	if !t.active {
		ignore = 0
	}
	if c.overlaps(at, c.entrySize, ignore) != 0 {
		c.say("ERROR: Overlap check failed")
		c.res.CheckErrors++
		t.stop = true
		return false, errCheck(syscall.EIO)
	}
	b := make([]byte, c.entrySize)
	ondisk.StoreL2(b, 0, c.hdr.ExtendedL2(), n)
	if err := c.writeTable(at, b); err != nil {
		c.say("ERROR: Failed to overwrite L2 table entry: %s", c.words(err))
		c.res.CheckErrors++
		return false, nil
	}
	ondisk.StoreL2(t.b, i, c.hdr.ExtendedL2(), n)
	c.res.Corruptions--
	c.res.CorruptionsFixed++
	return true, nil
}
