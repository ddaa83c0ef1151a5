package check

import (
	"encoding/binary"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// rebuildRefcounts writes new refcount blocks and a new refcount table from the
// counts into clusters that nothing refers to, and then lets the header refer
// to them: until that one write the image is what it was. The old structure is
// leaked, and freed if leaks may be repaired.
func (c *checker) rebuildRefcounts() error {
	found := c.res
	c.say("Rebuilding refcount structure")
	if err := c.writeRefcounts(); err != nil {
		return err
	}
	c.fileSize = c.file.Size()
	c.counts.grow(c.clusters(c.fileSize))
	c.res.Corruptions, c.res.Leaks = 0, 0
	c.rebuild = false
	c.counts.reset()
	if err := c.countReferences(driver.CheckFix{}); err != nil {
		return err
	}
	var fresh int64
	if c.fix.Leaks {
		saved := c.res
		c.res = driver.CheckResult{}
		if err := c.compareRefcounts(driver.CheckFix{Leaks: true}); err != nil {
			return err
		}
		if c.rebuild {
			c.say("ERROR rebuilt refcount structure is still broken")
		}
		fresh, c.res = c.res.Leaks, saved
	}
	c.res.CorruptionsFixed += max(0, found.Corruptions-c.res.Corruptions)
	c.res.LeaksFixed += max(0, found.Leaks-c.res.Leaks)
	c.res.Leaks += fresh
	// The second count repeated the statistics.
	c.res.AllocatedClusters, c.res.FragmentedClusters, c.res.CompressedClusters =
		found.AllocatedClusters, found.FragmentedClusters, found.CompressedClusters
	return nil
}

// rebuilder makes the new structure.
type rebuilder struct {
	*checker
	table []uint64 // offsets of new blocks
}

func (c *checker) writeRefcounts() error {
	r := &rebuilder{checker: c}
	if _, err := r.writeBlocks(0, c.counts.clusters); err != nil {
		c.res.CheckErrors++
		return err
	}
	// The table itself needs room, which changes blocks that were written and
	// may need further ones, and so a larger table.
	var offset int64
	for again := true; again; {
		n := int64(len(r.table)) * 8 / c.cs
		start, err := r.alloc(n, new(int64))
		if err != nil {
			c.res.CheckErrors++
			return err
		}
		offset = start << c.hdr.ClusterBits
		if again, err = r.writeBlocks(start, start+n); err != nil {
			c.res.CheckErrors++
			return err
		}
	}
	if c.overlaps(offset, int64(len(r.table))*8, 0) != 0 {
		c.say("ERROR writing reftable: %s", c.words(syscall.EIO))
		return errCheck(syscall.EIO)
	}
	w := tableio.NewWriter(c.ctx, c.file)
	c.changed = true
	if err := w.Words(offset, r.table); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := c.file.Flush(c.ctx); err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(offset))
	b = binary.BigEndian.AppendUint32(b, uint32(int64(len(r.table))*8/c.cs))
	if err := c.writeHeader(ondisk.RefcountTableOffset, b); err != nil {
		return err
	}
	if err := c.file.Flush(c.ctx); err != nil {
		return err
	}
	c.hdr.RefcountTableOffset = uint64(offset)
	c.hdr.RefcountTableClusters = uint32(int64(len(r.table)) * 8 / c.cs)
	c.reftable = r.table
	return nil
}

// writeBlocks writes the blocks for the clusters [first, end) that are in use;
// grown says that the table had to grow for it.
func (r *rebuilder) writeBlocks(first, end int64) (grown bool, err error) {
	perBlock := int64(1) << r.blockBits
	free := int64(0)
	buf := make([]byte, r.cs)
	for i := first; i < end; i++ {
		if i < r.counts.clusters && r.counts.chunks[i>>chunkBits] == nil {
			i |= 1<<chunkBits - 1
			continue
		}
		if r.counts.get(i) == 0 {
			continue
		}
		index := i >> r.blockBits
		if index >= int64(len(r.table)) || r.table[index] == 0 {
			free = max(free, index*perBlock)
			at, err := r.alloc(1, &free)
			if err != nil {
				return false, err
			}
			end = max(end, at+1)
			if index >= int64(len(r.table)) {
				n := tableio.AlignUp((index+1)*8, r.cs) / 8
				if n > ondisk.MaxRefcountTableBytes/8 {
					r.say("ERROR allocating reftable: %s", r.words(driver.ErrTooLarge))
					return false, errCheck(driver.ErrTooLarge)
				}
				r.table = append(r.table, make([]uint64, n-int64(len(r.table)))...)
				grown = true
			}
			r.table[index] = uint64(at) << r.hdr.ClusterBits
		}
		at := int64(r.table[index])
		if r.overlaps(at, r.cs, 0) != 0 {
			r.say("ERROR writing refblock: %s", r.words(syscall.EIO))
			return false, errCheck(syscall.EIO)
		}
		clear(buf)
		for j := range perBlock {
			if n := r.counts.get(index*perBlock + j); n != 0 {
				ondisk.SetRefcount(buf, int(j), r.hdr.RefcountOrder, n)
			}
		}
		if err := r.write(at, buf); err != nil {
			return false, err
		}
		i = index*perBlock + perBlock - 1
	}
	return grown, nil
}

// alloc takes n clusters that nothing refers to, at or behind *free, and sets
// *free to the first such cluster.
func (r *rebuilder) alloc(n int64, free *int64) (int64, error) {
	start, run, seen := *free, int64(0), false
	i := start
	for ; i < r.counts.clusters && run < n; i++ {
		if r.counts.get(i) != 0 {
			run = 0
			continue
		}
		run++
		if !seen {
			*free, seen = i, true
		}
	}
	start = i - run
	r.counts.grow(start + n)
	for k := start; k < start+n; k++ {
		if err := r.counts.set(k, 1); err != nil {
			return 0, err
		}
	}
	return start, nil
}
