package check

import (
	"encoding/binary"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// checkRefcountBlocks verifies the refcount table and counts its blocks.
func (c *checker) checkRefcountBlocks(fix driver.CheckFix) error {
	for i, e := range c.reftable {
		off := int64(e &^ ondisk.ReftReservedMask)
		switch {
		case e == 0:
			continue
		case e&ondisk.ReftReservedMask != 0:
			c.corrupt("ERROR refcount table entry %d has reserved bits set", i)
			c.rebuild = true
			continue
		case off&(c.cs-1) != 0:
			c.corrupt("ERROR refcount block %d is not cluster aligned; refcount table entry corrupted", i)
			c.rebuild = true
			continue
		case off < 0 || off>>c.hdr.ClusterBits >= c.counts.clusters:
			if err := c.blockOutside(i, off, fix); err != nil {
				return err
			}
			continue
		}
		if err := c.count(off, c.cs); err != nil {
			return err
		}
		if n := c.counts.get(off >> c.hdr.ClusterBits); n != 1 {
			c.corrupt("ERROR refcount block %d refcount=%d", i, n)
			c.rebuild = true
		}
	}
	return nil
}

// maxGrowClusters bounds how far a file is grown so that it holds a refcount
// block that is outside.
const maxGrowClusters = 1 << 24

// blockOutside handles a refcount block that is beyond the end of the file:
// the file is made longer, so that the block is there, empty.
func (c *checker) blockOutside(i int, off int64, fix driver.CheckFix) error {
	c.corrupt("%s refcount block %d is outside image", verb(fix.Errors), i)
	if !fix.Errors {
		return nil
	}
	var err error
	if off < 0 || off > 1<<63-1-c.cs {
		err = syscall.EINVAL
	} else if (off+c.cs-c.fileSize)>>c.hdr.ClusterBits > maxGrowClusters {
		err = driver.ErrTooLarge
	} else {
		err = tableio.Extend(c.ctx, c.file, off+c.cs, driver.PreallocOff)
	}
	if err != nil {
		c.rebuild = true
		c.say("ERROR could not resize image: %s", c.words(err))
		return nil
	}
	c.changed = true
	c.fileSize = c.file.Size()
	c.counts.grow(c.clusters(c.fileSize))
	c.res.Corruptions--
	c.res.CorruptionsFixed++
	return c.count(off, c.cs)
}

// blockOffset returns where refcount block i is, zero if there is none; bad
// says that the table's entry cannot be used.
func (c *checker) blockOffset(i int64) (off int64, bad bool) {
	if i >= int64(len(c.reftable)) {
		return 0, false
	}
	off = int64(c.reftable[i] &^ ondisk.ReftReservedMask)
	return off, off < 0 || off&(c.cs-1) != 0
}

// compareRefcounts compares the refcounts in the file with the counts, and
// writes those that fix allows. A refcount of zero for a cluster in use is not
// corrected here: something may have been put into the cluster meanwhile.
func (c *checker) compareRefcounts(fix driver.CheckFix) error {
	perBlock := int64(1) << c.blockBits
	blocks := (c.counts.clusters + perBlock - 1) / perBlock
	var offsets, index []int64
	for i := range min(blocks, int64(len(c.reftable))) {
		if off, bad := c.blockOffset(i); off != 0 && !bad {
			offsets, index = append(offsets, off), append(index, i)
		}
	}
	c.highest = 0
	next := int64(0)
	missing := func(end int64) error {
		for ; next < end; next++ {
			if off, bad := c.blockOffset(next); bad {
				if err := c.misplacedBlock(next, off); err != nil {
					return err
				}
				c.unreadableBlock(next)
			} else {
				c.missingBlock(next)
			}
		}
		return c.ctx.Err()
	}
	cmp := blockCompare{checker: c, fix: fix}
	err := tableio.ReadTables(c.ctx, c.file, offsets, c.cs, func(i int, b []byte, err error) error {
		if err := missing(index[i]); err != nil {
			return err
		}
		next = index[i] + 1
		if err != nil {
			c.unreadableBlock(index[i])
			return nil
		}
		cmp.first, cmp.b, cmp.dirty = index[i]<<c.blockBits, b, false
		cmp.run()
		if !cmp.dirty {
			return nil
		}
		return c.write(offsets[i], b)
	})
	if err != nil {
		return err
	}
	if err := missing(blocks); err != nil {
		return err
	}
	return c.discard(cmp.freed)
}

// misplacedBlock reports the first block whose place is impossible. An image that is
// open for a repair is marked as corrupt, for those that write to it before all is
// repaired; a repair that succeeds takes the mark away.
func (c *checker) misplacedBlock(block, off int64) error {
	if c.misplaced {
		return nil
	}
	c.misplaced = true
	verb, rest := "Image is", "further non-fatal corruption events"
	if c.fix.Leaks || c.fix.Errors {
		verb, rest = "Marking image as", "further corruption events"
	}
	c.say("qcow2: %s corrupt: Refblock offset %s unaligned (reftable index: %s); %s will be suppressed", verb, hex(uint64(off)), hex(uint64(block)), rest)
	if !c.fix.Leaks && !c.fix.Errors || c.hdr.Version < 3 {
		return nil
	}
	c.hdr.Incompatible |= ondisk.IncompatCorrupt
	return c.writeHeader(ondisk.IncompatibleOffset, binary.BigEndian.AppendUint64(nil, c.hdr.Incompatible))
}

// unreadableBlock reports the clusters of a block that cannot be read.
func (c *checker) unreadableBlock(block int64) {
	first := block << c.blockBits
	for i := first; i < min(first+1<<c.blockBits, c.counts.clusters); i++ {
		c.say("Can't get refcount for cluster %d: %s", i, c.words(syscall.EIO))
		c.res.CheckErrors++
	}
}

// missingBlock compares the clusters of a block that does not exist.
func (c *checker) missingBlock(block int64) {
	first := block << c.blockBits
	for i := first; i < min(first+1<<c.blockBits, c.counts.clusters); i++ {
		if c.counts.chunks[i>>chunkBits] == nil {
			i |= 1<<chunkBits - 1
			continue
		}
		if n := c.counts.get(i); n != 0 {
			c.highest, c.rebuild = i, true
			c.corrupt("ERROR cluster %d refcount=0 reference=%d", i, n)
		}
	}
}

// blockCompare compares refcount blocks, one at a time.
type blockCompare struct {
	*checker
	first int64 // cluster
	b     []byte
	fix   driver.CheckFix
	none  countChunk // represents chunks without references
	dirty bool
	freed []clusterSpan
}

func (t *blockCompare) run() {
	end := min(t.first+1<<t.blockBits, t.counts.clusters)
	for i := t.first; i < end; {
		stop := min(end, (i|(1<<chunkBits-1))+1)
		chunk := t.counts.chunks[i>>chunkBits]
		if chunk == nil {
			chunk = &t.none
		}
		t.compare(chunk, i, stop)
		i = stop
	}
}

// compare compares clusters i to end, whose counts are in chunk.
func (t *blockCompare) compare(chunk *countChunk, i, end int64) {
	order := t.hdr.RefcountOrder
	for ; i < end; i++ {
		j := int(i - t.first)
		var disk uint64
		if order == 4 {
			disk = uint64(binary.BigEndian.Uint16(t.b[2*j:]))
		} else {
			disk = ondisk.GetRefcount(t.b, j, order)
		}
		n := uint64(chunk[i&(1<<chunkBits-1)] & countMask)
		if n == disk && n != countMask {
			if n != 0 {
				t.highest = i
			}
			continue
		}
		if n = t.counts.get(i); n == disk {
			t.highest = i
			continue
		}
		t.highest = i
		t.differ(i, j, disk, n)
	}
}

func (t *blockCompare) differ(i int64, j int, disk, n uint64) {
	var fixed *int64
	switch {
	case disk == 0:
		t.rebuild = true
	case disk > n && t.fix.Leaks:
		fixed = &t.res.LeaksFixed
	case disk < n && t.fix.Errors:
		fixed = &t.res.CorruptionsFixed
	}
	verb := "Leaked"
	if fixed != nil {
		verb = "Repairing"
	} else if disk < n {
		verb = "ERROR"
	}
	t.say("%s cluster %d refcount=%d reference=%d", verb, i, disk, n)
	switch {
	case fixed != nil:
		*fixed++
		ondisk.SetRefcount(t.b, j, t.hdr.RefcountOrder, n)
		t.dirty = true
		if n == 0 {
			t.freed = append(t.freed, clusterSpan{i << t.hdr.ClusterBits, t.cs})
		}
	case disk < n:
		t.res.Corruptions++
	default:
		t.res.Leaks++
	}
}
