package check

import (
	"encoding/binary"
	"syscall"

	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// checkCopied verifies the copied flag in every entry of the active L1 and L2
// tables against the refcounts in the file, and corrects it.
func (c *checker) checkCopied() error {
	repair := c.fix.Errors
	if !repair && c.fix.Leaks {
		// With sound refcounts the flags can be derived from them.
		repair = c.res.CheckErrors == 0 && c.res.Corruptions == 0 && c.res.Leaks == 0
	}
	refs := refcountReader{checker: c, blocks: map[int64][]byte{}}
	var offsets []int64
	var index []int
	for i, e := range c.l1 {
		if off := int64(e & ondisk.OffsetMask); off != 0 {
			offsets, index = append(offsets, off), append(index, i)
		}
	}
	return tableio.ReadTables(c.ctx, c.file, offsets, c.cs, func(i int, b []byte, err error) error {
		ok, lerr := c.checkCopiedL1(index[i], &refs, repair)
		if lerr != nil || !ok {
			return lerr
		}
		if err == nil {
			err = c.refresh(offsets[i], b)
		}
		if err != nil {
			c.say("ERROR: Could not read L2 table: %s", c.words(err))
			c.res.CheckErrors++
			return errCheck(syscall.EIO)
		}
		return c.checkCopiedL2(offsets[i], b, &refs, repair)
	})
}

// checkCopiedL1 verifies an L1 entry; ok is false if its table is left out.
func (c *checker) checkCopiedL1(i int, refs *refcountReader, repair bool) (ok bool, err error) {
	e := c.l1[i]
	n, ok := refs.get(int64(e&ondisk.OffsetMask) >> c.hdr.ClusterBits)
	if !ok {
		return false, nil
	}
	if (n == 1) == (e&ondisk.FlagCopied != 0) {
		return true, nil
	}
	c.corrupt("%s OFLAG_COPIED L2 cluster: l1_index=%d l1_entry=%x refcount=%d", verb(repair), i, e, n)
	if !repair {
		return true, nil
	}
	c.l1[i] = e ^ ondisk.FlagCopied
	at := int64(c.hdr.L1TableOffset) + int64(i)*8
	if c.overlaps(at, 8, areaActiveL1) != 0 {
		c.res.CheckErrors++
		return false, errCheck(syscall.EIO)
	}
	if err := c.writeWord(at, c.l1[i]); err != nil {
		c.res.CheckErrors++
		return false, err
	}
	c.res.Corruptions--
	c.res.CorruptionsFixed++
	return true, nil
}

func (c *checker) checkCopiedL2(off int64, b []byte, refs *refcountReader, repair bool) error {
	changed := int64(0)
	size := int(c.entrySize)
	for i := 0; i+size <= len(b); i += size {
		e := binary.BigEndian.Uint64(b[i:])
		if e == 0 || e&ondisk.FlagCompressed != 0 {
			continue
		}
		host := int64(e & ondisk.OffsetMask)
		n, ok := uint64(1), true
		switch {
		case host == 0:
			if !c.dataFile || e&ondisk.FlagCopied == 0 || e&ondisk.FlagZero != 0 && !c.hdr.ExtendedL2() {
				continue // not allocated
			}
		case !c.dataFile:
			n, ok = refs.get(host >> c.hdr.ClusterBits)
		}
		if !ok || (n == 1) == (e&ondisk.FlagCopied != 0) {
			continue
		}
		c.corrupt("%s OFLAG_COPIED data cluster: l2_entry=%x refcount=%d", verb(repair), e, n)
		if repair {
			binary.BigEndian.PutUint64(b[i:], e^ondisk.FlagCopied)
			changed++
		}
	}
	if changed == 0 {
		return nil
	}
	if c.overlaps(off, c.cs, areaActiveL2) != 0 {
		c.say("ERROR: Could not write L2 table; metadata overlap check failed: %s", c.words(syscall.EIO))
		c.res.CheckErrors++
		return errCheck(syscall.EIO)
	}
	if err := c.writeTable(off, b); err != nil {
		c.say("ERROR: Could not write L2 table: %s", c.words(err))
		c.res.CheckErrors++
		return err
	}
	c.res.Corruptions -= changed
	c.res.CorruptionsFixed += changed
	return nil
}

// refcountReader reads refcounts from the file, with a bounded cache.
type refcountReader struct {
	*checker
	blocks map[int64][]byte
}

const maxRefcountCache = 16 << 20

// get returns the refcount of cluster i; ok is false if it cannot be read.
func (r *refcountReader) get(i int64) (n uint64, ok bool) {
	k := i >> r.blockBits
	off, bad := r.blockOffset(k)
	if bad {
		return 0, false
	}
	if off == 0 {
		return 0, true
	}
	b := r.blocks[k]
	if b == nil {
		if int64(len(r.blocks)+1)*r.cs > maxRefcountCache && len(r.blocks) > 1 {
			clear(r.blocks)
		}
		b = make([]byte, r.cs)
		if tableio.ReadPadded(r.ctx, r.file, b, off) != nil {
			return 0, false
		}
		r.blocks[k] = b
	}
	return ondisk.GetRefcount(b, int(i&(1<<r.blockBits-1)), r.hdr.RefcountOrder), true
}
