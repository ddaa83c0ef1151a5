package layout

import (
	"errors"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// clusterRun is a run of clusters, by index: [Start, End).
type clusterRun struct{ Start, End int64 }

// runSet is a set of clusters as sorted runs that neither touch nor overlap.
// New images hold few runs, so linear work on it is cheap.
type runSet []clusterRun

// add puts [start, end) into the set.
func (s *runSet) add(start, end int64) {
	if start >= end {
		return
	}
	r := *s
	i, _ := slices.BinarySearchFunc(r, start, func(c clusterRun, v int64) int {
		if c.End < v {
			return -1
		}
		return 1
	})
	j := i
	for ; j < len(r) && r[j].Start <= end; j++ {
		start, end = min(start, r[j].Start), max(end, r[j].End)
	}
	*s = slices.Replace(r, i, j, clusterRun{start, end})
}

// remove takes [start, end) out of the set.
func (s *runSet) remove(start, end int64) {
	var out runSet
	for _, c := range *s {
		if c.Start < start {
			out = append(out, clusterRun{c.Start, min(c.End, start)})
		}
		if c.End > end {
			out = append(out, clusterRun{max(c.Start, end), c.End})
		}
	}
	*s = out
}

// freeAfter returns the length of the free run that starts at cluster i, which
// may be without bound: then it is limit. If i is in use the result is zero and
// next is the first cluster behind that use.
func (s runSet) freeAfter(i, limit int64) (n, next int64) {
	k, _ := slices.BinarySearchFunc(s, i, func(c clusterRun, v int64) int {
		if c.End <= v {
			return -1
		}
		return 1
	})
	if k == len(s) {
		return limit, i
	}
	if s[k].Start <= i {
		return 0, s[k].End
	}
	return min(limit, s[k].Start-i), i
}

// planner places the parts of an image that is being laid out, in memory and in
// the order in which QEMU allocates them, so that the result is the
// same file. Every cluster is in use once or not at all.
type planner struct {
	clusterBits   uint32
	refcountOrder uint32

	used runSet
	// free is where the search for free clusters starts.
	free int64

	reftable       []uint64 // offset of each refcount block
	reftableOffset int64
	// dropped are refcount tables that were replaced: their bytes stay in the
	// file until something else is put there.
	dropped []droppedTable
}

type droppedTable struct {
	offset  int64
	entries []uint64
}

// newPlanner starts the layout of an image: header, refcount table of one
// cluster, refcount block.
func newPlanner(clusterBits, refcountOrder uint32) *planner {
	p := &planner{clusterBits: clusterBits, refcountOrder: refcountOrder}
	p.reftableOffset = 1 << clusterBits
	p.reftable = make([]uint64, int64(1)<<clusterBits/8)
	p.reftable[0] = 2 << clusterBits
	p.used.add(0, 3)
	p.free = 3
	return p
}

func (p *planner) clusterSize() int64 { return 1 << p.clusterBits }

// blockBits is the base two logarithm of the refcounts in a refcount block.
func (p *planner) blockBits() uint32 { return p.clusterBits + 3 - p.refcountOrder }

func (p *planner) clusters(bytes int64) int64 {
	return (bytes + p.clusterSize() - 1) >> p.clusterBits
}

// search takes the first run of n free clusters at or behind p.free, without
// counting them as used.
func (p *planner) search(n int64) int64 {
	for i := p.free; ; {
		got, next := p.used.freeAfter(i, n)
		switch {
		case got == n:
			p.free = i + n
			return i
		case got == 0:
			i = next
		default:
			i += got
		}
	}
}

// alloc finds room for bytes and returns its offset.
func (p *planner) alloc(bytes int64) (int64, error) {
	n := p.clusters(bytes)
	for {
		start := p.search(n)
		again, err := p.use(start, n)
		if err != nil {
			return 0, err
		}
		if !again {
			return start << p.clusterBits, nil
		}
	}
}

// allocAt takes as many of n clusters at index start as are free, and returns
// how many.
func (p *planner) allocAt(start, n int64) (int64, error) {
	for {
		got, _ := p.used.freeAfter(start, n)
		again, err := p.use(start, got)
		if err != nil || !again {
			return got, err
		}
	}
}

// use counts n clusters at start as used, which are free. It may have to make a
// refcount block first; again says that it did, that nothing was counted, and
// that the caller must search once more, as the block may be in its way.
func (p *planner) use(start, n int64) (again bool, err error) {
	if n == 0 {
		return false, nil
	}
	bits := p.blockBits()
	for b := start >> bits; b <= (start+n-1)>>bits; b++ {
		if b < int64(len(p.reftable)) && p.reftable[b] != 0 {
			continue
		}
		err := p.addRefcountBlock(max(start, b<<bits))
		// The next search begins with the same clusters: they may still be free.
		p.free = min(p.free, start)
		return true, err
	}
	p.used.add(start, start+n)
	return false, nil
}

// addRefcountBlock makes the refcount block that covers cluster.
func (p *planner) addRefcountBlock(cluster int64) error {
	bits := p.blockBits()
	index := cluster >> bits
	block := p.search(1)
	if block>>bits == index {
		p.used.add(block, block+1)
	} else if again, err := p.use(block, 1); again || err != nil {
		return err
	}
	if index < int64(len(p.reftable)) {
		p.reftable[index] = uint64(block) << p.clusterBits
		return nil
	}
	perBlock := int64(1) << bits
	blocks := (max(cluster, block) + 1 + perBlock - 1) / perBlock
	_, err := p.refcountArea(blocks*perBlock, 0, false, index, block)
	return err
}

// refcountMetadata returns how many refcount blocks and refcount table clusters
// an image with clusters other clusters needs; generous adds half a table.
func refcountMetadata(clusters, clusterSize int64, order uint32, generous bool) (blocks, table int64) {
	perTable, perBlock := clusterSize/8, clusterSize*8>>order
	for n := int64(0); ; {
		last := n
		blocks = (clusters + table + blocks + perBlock - 1) / perBlock
		table = (blocks + perTable - 1) / perTable
		n = clusters + blocks + table
		if n == last && generous {
			clusters += (table + 1) / 2
			n, generous = 0, false
		}
		if n == last {
			return blocks, table
		}
	}
}

// refcountArea makes a new refcount table at cluster start, behind everything
// in use, with blocks for itself and extra clusters that follow. If newBlock is
// not zero it is the block for table entry newIndex. It returns the cluster
// behind the area.
func (p *planner) refcountArea(start, extra int64, exact bool, newIndex, newBlock int64) (int64, error) {
	total, _ := refcountMetadata(start+extra, p.clusterSize(), p.refcountOrder, !exact)
	size := total
	if !exact {
		size += (total + 1) / 2
	}
	perTable := p.clusterSize() / 8
	size = (size + perTable - 1) / perTable * perTable
	if size > ondisk.MaxRefcountTableBytes/8 {
		return 0, errTooLarge()
	}
	table := make([]uint64, size)
	copy(table, p.reftable)
	if newBlock != 0 {
		table[newIndex] = uint64(newBlock) << p.clusterBits
	}
	next := start
	for i := start >> p.blockBits(); i < total; i++ {
		if table[i] == 0 {
			table[i] = uint64(next) << p.clusterBits
			next++
		}
	}
	offset := next << p.clusterBits
	end := next + size/perTable
	p.used.add(start, end)

	old, oldOffset := p.reftable, p.reftableOffset
	p.reftable, p.reftableOffset = table, offset
	p.dropped = append(p.dropped, droppedTable{oldOffset, old})
	first := oldOffset >> p.clusterBits
	p.used.remove(first, first+int64(len(old))/perTable)
	p.free = min(p.free, first)
	return end, nil
}

// end returns the first cluster behind everything in use.
func (p *planner) end() int64 { return p.used[len(p.used)-1].End }

// errL1TooLarge is the kind of errTooLarge, for Measure, which words it
// otherwise.
var errL1TooLarge = errors.New("L1 table too large")

func errTooLarge() error {
	return driver.Errorf(errors.Join(driver.ErrInvalid, errL1TooLarge),
		"the image size is too large for file format 'qcow2' (try using a larger cluster size)")
}
