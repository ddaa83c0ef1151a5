package check

import (
	"encoding/binary"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// countTables counts the active L1 table, the L2 tables that it refers to and
// their clusters, and verifies the entries.
func (c *checker) countTables(t l1Table, l1 []uint64, fix driver.CheckFix) error {
	if err := c.count(t.off, t.n*8); err != nil {
		return err
	}
	// Tables that are beyond the end of the file hold nothing and are not read.
	var offsets []int64
	var index []int
	for i, e := range l1 {
		if off := int64(e & ondisk.OffsetMask); e != 0 && off < c.fileSize {
			offsets = append(offsets, off)
			index = append(index, i)
		}
	}
	c.l2Reads += int64(len(offsets))
	if err := c.boundReads(); err != nil {
		return err
	}
	next := 0
	entries := func(end int) error {
		for ; next < end; next++ {
			if l1[next] != 0 {
				if err := c.checkL1Entry(l1[next], 1, true); err != nil {
					return err
				}
			}
		}
		return nil
	}
	err := tableio.ReadTables(c.ctx, c.file, offsets, c.cs, func(i int, b []byte, err error) error {
		if err := entries(index[i] + 1); err != nil {
			return err
		}
		if err == nil {
			err = c.refresh(offsets[i], b)
		}
		if err != nil {
			c.say("ERROR: I/O error in check_refcounts_l2")
			c.res.CheckErrors++
			return errCheck(syscall.EIO)
		}
		c.progress(int64(i), int64(len(offsets)))
		return c.countTable(l2Check{off: offsets[i], b: b, times: 1, active: true, fix: fix, guest: int64(index[i]) * c.cs / c.entrySize * c.cs})
	})
	if err != nil {
		return err
	}
	return entries(len(l1))
}

// boundReads refuses images whose L1 tables refer to more L2 tables than the
// file has clusters: tables are shared between snapshots, and those are read
// once, but not within one disk.
func (c *checker) boundReads() error {
	if limit := 2*c.clusters(c.fileSize) + 2; c.l2Reads > limit {
		c.say("ERROR: more L2 tables are referred to than the file has clusters")
		c.res.CheckErrors++
		return errCheck(syscall.EINVAL)
	}
	return c.ctx.Err()
}

func (c *checker) checkL1Entry(e, times uint64, active bool) error {
	if e&ondisk.L1ReservedMask != 0 {
		c.repeat(times, "ERROR found L1 entry with reserved bits set: %x", e)
	}
	off := int64(e & ondisk.OffsetMask)
	if err := c.countTimes(off, c.cs, times); err != nil {
		return err
	}
	if off&(c.cs-1) != 0 {
		c.repeat(times, "ERROR l2_offset=%x: Table is not cluster aligned; L1 entry corrupted", off)
	}
	if i := off >> c.hdr.ClusterBits; active && off != 0 && i < c.counts.clusters {
		c.counts.mark(i, copiedMark(e))
	}
	return nil
}

func copiedMark(e uint64) uint16 {
	if e&ondisk.FlagCopied != 0 {
		return refCopied
	}
	return refPlain
}

// repeat reports a corruption that is reached times times.
func (c *checker) repeat(times uint64, format string, args ...any) {
	for range min(times, maxRepeats) {
		c.say(format, args...)
	}
	c.res.Corruptions += int64(times)
}

// countTable counts the clusters of one L2 table.
func (c *checker) countTable(t l2Check) error {
	t.checker = c
	if !c.hdr.ExtendedL2() && !c.dataFile && t.times < countMask {
		return t.fast()
	}
	for i := range len(t.b) / int(c.entrySize) {
		if err := t.entry(i); err != nil || t.stop {
			return err
		}
	}
	return nil
}

// l2Check is the check of one L2 table.
type l2Check struct {
	*checker
	off    int64
	b      []byte
	times  uint64
	active bool
	fix    driver.CheckFix
	guest  int64 // guest offset of the first entry, of the active disk
	next   int64 // where the next data cluster would be contiguous
	stop   bool  // the rest of the table cannot be trusted
}

// fast goes through a table of standard entries. Sound data clusters, which is
// what nearly all entries are, are counted here; the rest is left to entry.
func (t *l2Check) fast() error {
	c := t.checker
	const odd = ondisk.FlagCompressed | ondisk.L2StdReservedMask | ondisk.FlagZero
	bad := odd | uint64(c.cs-1)
	shift := c.hdr.ClusterBits
	clusters := uint64(min(c.counts.clusters, c.fileSize>>shift))
	var chunk *countChunk
	chunkIndex := ^uint64(0)
	// Counts up to room can grow here.
	room := int64(min(countMask-1, ondisk.MaxRefcount(c.hdr.RefcountOrder))) - int64(t.times)
	times := uint16(t.times)
	var allocated, fragmented int64
	next := t.next
	for i := 0; i+8 <= len(t.b); i += 8 {
		e := binary.BigEndian.Uint64(t.b[i:])
		if e == 0 {
			continue
		}
		host := e & ondisk.OffsetMask
		k := host >> shift
		if e&bad == 0 && host != 0 && k < clusters {
			if k>>chunkBits != chunkIndex {
				var err error
				if chunk, err = c.counts.chunk(int64(k)); err != nil {
					c.res.CheckErrors++
					return err
				}
				chunkIndex = k >> chunkBits
			}
			if p := &chunk[k&(1<<chunkBits-1)]; int64(*p&countMask) <= room {
				*p += times
				if t.active {
					*p |= refPlain << (e >> 63)
					allocated++
					if next != 0 && int64(host) != next {
						fragmented++
					}
					next = int64(host) + c.cs
				}
				continue
			}
		}
		t.next = next
		if err := t.entry(i / 8); err != nil || t.stop {
			return err
		}
		next = t.next
	}
	c.res.AllocatedClusters += allocated
	c.res.FragmentedClusters += fragmented
	return nil
}

// entry counts and verifies entry i.
func (t *l2Check) entry(i int) error {
	c := t.checker
	e := ondisk.LoadL2(t.b, i, c.hdr.ExtendedL2())
	if e.Desc&ondisk.FlagCompressed != 0 {
		return t.compressed(i, e)
	}
	if e.Desc&ondisk.L2StdReservedMask != 0 {
		c.repeat(t.times, "ERROR found l2 entry with reserved bits set: %x", e.Desc)
	}
	host := int64(e.Desc & ondisk.OffsetMask)
	zero := e.Desc&ondisk.FlagZero != 0 && !c.hdr.ExtendedL2()
	// With an external data file, whose first cluster is at offset zero, the
	// copied flag tells an allocated cluster.
	allocated := host != 0 || c.dataFile && e.Desc&ondisk.FlagCopied != 0 && !zero
	switch {
	case allocated:
		return t.standard(i, e, host, zero)
	case !zero && uint32(e.Bitmap) != 0:
		c.repeat(t.times, "ERROR: Unallocated cluster has non-zero subcluster allocation map")
	}
	return nil
}

func (t *l2Check) compressed(i int, e ondisk.L2Entry) error {
	c := t.checker
	desc := e.Desc
	if desc&ondisk.FlagCopied != 0 {
		x := 62 - (c.hdr.ClusterBits - 8)
		c.repeat(t.times, "ERROR: coffset=0x%x: copied flag must never be set for compressed clusters", desc&(1<<x-1))
		desc &^= ondisk.FlagCopied
	}
	if c.dataFile {
		c.repeat(t.times, "ERROR compressed cluster %d with data file, entry=0x%x", i, desc)
		return nil
	}
	if e.Bitmap != 0 {
		c.repeat(t.times, "ERROR compressed cluster %d with non-zero subcluster allocation bitmap, entry=0x%x", i, desc)
		return nil
	}
	d := ondisk.DecodeCompressed(desc, c.hdr.ClusterBits)
	if err := c.countTimes(d.Offset, d.Size, t.times); err != nil {
		return err
	}
	if t.active {
		c.res.AllocatedClusters++
		c.res.CompressedClusters++
		// They start anywhere, so each is a fragment.
		c.res.FragmentedClusters++
	}
	return nil
}

func (t *l2Check) standard(i int, e ondisk.L2Entry, host int64, zero bool) error {
	c := t.checker
	if e.Bitmap>>32&e.Bitmap != 0 {
		c.repeat(t.times, "ERROR offset=%x: Allocated cluster has corrupted subcluster allocation bitmap", host)
	}
	if host&(c.cs-1) != 0 {
		holdsData := !zero
		if c.hdr.ExtendedL2() {
			holdsData = uint32(e.Bitmap) != 0
		}
		if !holdsData {
			n := t.times
			if t.fix.Errors {
				n = 1 // other references find it repaired
			}
			c.repeat(n, "%s offset=%x: Preallocated cluster is not properly aligned; L2 entry corrupted.", verb(t.fix.Errors), host)
			if t.fix.Errors {
				fixed, err := t.zeroEntry(i, e)
				if err != nil || fixed || t.stop {
					return err
				}
			}
		} else {
			c.repeat(t.times, "ERROR offset=%x: Data cluster is not properly aligned; L2 entry corrupted.", host)
		}
	}
	if t.active {
		c.res.AllocatedClusters++
		if t.next != 0 && host != t.next {
			c.res.FragmentedClusters++
		}
		t.next = host + c.cs
	}
	if c.dataFile {
		if guest := t.guest + int64(i)*c.cs; t.active && host != guest {
			c.repeat(t.times, "ERROR data cluster at guest offset %#x is at offset %#x of the external data file; L2 entry corrupted", guest, host)
		}
		if e.Desc&ondisk.FlagCopied == 0 {
			c.suspect = true
		}
		return nil
	}
	if err := c.countTimes(host, c.cs, t.times); err != nil {
		return err
	}
	if k := host >> c.hdr.ClusterBits; t.active && k < c.counts.clusters {
		c.counts.mark(k, copiedMark(e.Desc))
	}
	return nil
}
