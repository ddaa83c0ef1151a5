package blockmap

import (
	"math/bits"

	"github.com/cowl-disk/cowl/block/driver"
)

// places is a set of places for units in the file: one bit for each grain from
// Layout.First on. The zero value holds none and takes none.
type places struct {
	bits         []uint64
	n            int64
	first, grain int64
	budget       *driver.Budget
}

// maxHoles bounds how many free places are remembered.
const maxHoles = 1 << 16

// newPlaces returns an empty set for all places in the file.
func (m *Disk) newPlaces() (places, error) {
	l := &m.l
	n := max(0, roundUp(m.file.Size()-l.First, l.grain())/l.grain())
	words := roundUp(n, 64) / 64
	if err := m.env.Budget.Table("the map of used places", words*8); err != nil {
		return places{}, err
	}
	return places{make([]uint64, words), n, l.First, l.grain(), m.env.Budget}, nil
}

func (p *places) release() { p.budget.Release(int64(len(p.bits)) * 8) }

// take adds the places of [off, off+n). It returns how many of them are new, and
// whether one is not.
func (p *places) take(off, n int64) (fresh int64, twice bool) {
	if n <= 0 || p.n == 0 {
		return 0, false
	}
	for i, end := max(0, (off-p.first)/p.grain), min(p.n, roundUp(off+n-p.first, p.grain)/p.grain); i < end; i++ {
		bit := uint64(1) << (i & 63)
		if p.bits[i/64]&bit != 0 {
			twice = true
		} else {
			p.bits[i/64] |= bit
			fresh++
		}
	}
	return fresh, twice
}

// holes lists the places for units before end that are not in the set, the first maxHoles of
// them.
func (p *places) holes(end int64) []int64 {
	var list []int64
	last := min(p.n, (end-p.first)/p.grain)
	for i := int64(0); i < last && len(list) < maxHoles; {
		w := ^p.bits[i/64] >> (i & 63)
		if w == 0 {
			i = (i/64 + 1) * 64
			continue
		}
		if i += int64(bits.TrailingZeros64(w)); i < last {
			list = append(list, p.first+i*p.grain)
		}
		i++
	}
	return list
}
