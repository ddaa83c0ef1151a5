package blockmap

import (
	"iter"
	"math/bits"

	"github.com/cowl-disk/cowl/block/driver"
)

// places is a set of places for units in the file: one bit for each grain from
// Layout.First on. Bits are in pages, which are there only where some places of a page are in the set and some are not: the
// file of a large disk that is mostly full, or mostly empty, costs little. The zero value holds none and takes none.
type places struct {
	pages        []*page
	all          *page // stands for pages whose places are all in the set
	n            int64
	first, grain int64
	budget       *driver.Budget
	held         int64 // bytes that the budget counts
	err          error // of the budget; the set is incomplete then
}

// pagePlaces is how many places a page has.
const pagePlaces = 1 << 15

type page struct {
	bits  [pagePlaces / 64]uint64
	count int64
}

const (
	pageCost    = pagePlaces/8 + 8 // bytes
	pointerCost = 8
)

// maxHoles bounds how many free places are remembered.
const maxHoles = 1 << 16

const placesNoun = "the map of used places"

// newPlaces returns an empty set for all places in the file. Who uses it looks at err in the end.
func (m *Disk) newPlaces() (places, error) {
	l := &m.l
	return makePlaces(max(0, roundUp(m.file.Size()-l.First, l.grain())/l.grain()), l.First, l.grain(), m.env.Budget)
}

func makePlaces(n, first, grain int64, budget *driver.Budget) (places, error) {
	p := places{all: &page{}, n: n, first: first, grain: grain, budget: budget}
	count := roundUp(n, pagePlaces) / pagePlaces
	if err := budget.Table(placesNoun, count*pointerCost); err != nil {
		return places{}, err
	}
	p.held = count * pointerCost
	p.pages = make([]*page, count)
	return p, nil
}

func (p *places) release() {
	p.budget.Release(p.held)
	p.held = 0
}

// take adds the places of [off, off+n). It returns how many of them are new, and
// whether one is not.
func (p *places) take(off, n int64) (fresh int64, twice bool) {
	if n <= 0 || p.n == 0 || p.err != nil {
		return 0, false
	}
	for i, end := max(0, (off-p.first)/p.grain), min(p.n, roundUp(off+n-p.first, p.grain)/p.grain); i < end; {
		at := i / pagePlaces
		to := min(end, (at+1)*pagePlaces)
		added := p.takeIn(at, i%pagePlaces, to-at*pagePlaces)
		if p.err != nil {
			return fresh, twice
		}
		fresh += added
		twice = twice || added < to-i
		i = to
	}
	return fresh, twice
}

// takeIn adds the places from..to of a page and returns how many of them are new.
func (p *places) takeIn(at, from, to int64) (fresh int64) {
	pg := p.pages[at]
	switch {
	case pg == p.all:
		return 0
	case pg == nil:
		if p.err = p.budget.Table(placesNoun, pageCost); p.err != nil {
			return 0
		}
		p.held += pageCost
		pg = &page{}
		p.pages[at] = pg
	}
	for from < to {
		next := min(to, (from/64+1)*64)
		mask := ^uint64(0) >> (64 - (next - from)) << (from % 64)
		fresh += int64(bits.OnesCount64(mask &^ pg.bits[from/64]))
		pg.bits[from/64] |= mask
		from = next
	}
	if pg.count += fresh; pg.count == min(pagePlaces, p.n-at*pagePlaces) {
		p.pages[at] = p.all
		p.budget.Release(pageCost)
		p.held -= pageCost
	}
	return fresh
}

// free yields the runs of places before last that are not in the set: where one begins and how long it is.
func (p *places) free(last int64) iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		start, end := int64(0), int64(0) // of the run so far
		last = min(last, p.n)
		for i := int64(0); i < last; {
			from, to := p.piece(i, min(last, (i/pagePlaces+1)*pagePlaces))
			if from != end && end > start {
				if !yield(start, end-start) {
					return
				}
				start = from
			} else if end == start {
				start = from
			}
			end = max(to, from)
			i = end
		}
		if end > start {
			yield(start, end-start)
		}
	}
}

// piece returns the first run of free places in i..last, which are of one page; last, last if there is none.
func (p *places) piece(i, last int64) (from, to int64) {
	pg := p.pages[i/pagePlaces]
	switch pg {
	case nil:
		return i, last
	case p.all:
		return last, last
	}
	base := i / pagePlaces * pagePlaces
	from = base + nextBit(&pg.bits, i-base, last-base, ^uint64(0))
	return from, base + nextBit(&pg.bits, from-base, last-base, 0)
}

// nextBit returns the first bit from i on that is set in the words of b, each combined with flip by exclusive or; last if
// none before it is.
func nextBit(b *[pagePlaces / 64]uint64, i, last int64, flip uint64) int64 {
	for i < last {
		if w := (b[i/64] ^ flip) >> (i % 64); w != 0 {
			return min(last, i+int64(bits.TrailingZeros64(w)))
		}
		i = (i/64 + 1) * 64
	}
	return last
}

// holes lists the places for units of unit bytes before end that are not in the set, the first maxHoles of
// them.
func (p *places) holes(end, unit int64) []int64 {
	var list []int64
	if p.n == 0 {
		return nil
	}
	for from, n := range p.free((end - p.first) / p.grain) {
		for i := range n * p.grain / unit {
			if len(list) == maxHoles {
				return list
			}
			list = append(list, p.first+from*p.grain+i*unit)
		}
	}
	return list
}

// unitsFree counts the units of unit bytes that fit in what is free before end.
func (p *places) unitsFree(end, unit int64) (units int64) {
	if p.n == 0 {
		return 0
	}
	for _, n := range p.free((end - p.first) / p.grain) {
		units += n * p.grain / unit
	}
	return units
}
