package bitmaps

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
)

// pageBits is how many bits are in memory together, or not at all.
const pageBits = 1 << 15

// bitPage holds the bits of pageBits granules, the first one lowest.
type bitPage [pageBits / 64]uint64

// onesPage is used in place of every page of which all bits are set. It is never written.
var onesPage = sync.OnceValue(func() *bitPage {
	var p bitPage
	for i := range p {
		p[i] = ^uint64(0)
	}
	return &p
})

// bitSet is the bits of a dirty bitmap. Pages without a set bit, and pages with
// no other, take no room. setRange and covers may be called from several
// goroutines at once, all else by one that is alone with the set.
type bitSet struct {
	shift    uint  // log2 of the granularity
	size     int64 // of the disk in bytes
	n        int64 // bits
	pages    []atomic.Pointer[bitPage]
	touched  []atomic.Uint32 // a bit for each page: changed since it was loaded
	budget   *driver.Budget
	reserved atomic.Int64
}

// newBitSet makes a set for a disk of size bytes with no bit set.
func newBitSet(size int64, shift uint, budget *driver.Budget) (*bitSet, error) {
	s := &bitSet{shift: shift, size: size, n: granules(size, shift), budget: budget}
	pages := (s.n + pageBits - 1) / pageBits
	need := pages*8 + (pages+31)/32*4
	if err := budget.Table("dirty bitmap", need); err != nil {
		return nil, err
	}
	s.reserved.Store(need)
	s.pages = make([]atomic.Pointer[bitPage], pages)
	s.touched = make([]atomic.Uint32, (pages+31)/32)
	return s, nil
}

func granules(n int64, shift uint) int64 { return n>>shift + min(1, n&(1<<shift-1)) }

// release gives back what the set took of the budget.
func (s *bitSet) release() { s.budget.Release(s.reserved.Swap(0)) }

func (s *bitSet) touch(p int64) {
	if w, m := &s.touched[p/32], uint32(1)<<(p%32); w.Load()&m == 0 {
		w.Or(m)
	}
}

// changed says whether a bit in [lo, hi) may have changed since it was loaded.
func (s *bitSet) changed(lo, hi int64) bool {
	for p := lo / pageBits; p*pageBits < min(hi, s.n); p++ {
		if s.touched[p/32].Load()>>(p%32)&1 != 0 {
			return true
		}
	}
	return false
}

func (s *bitSet) anyChanged() bool {
	for i := range s.touched {
		if s.touched[i].Load() != 0 {
			return true
		}
	}
	return false
}

func (s *bitSet) untouch() {
	for i := range s.touched {
		s.touched[i].Store(0)
	}
}

// span returns the bits of the granules that n bytes at off touch.
func (s *bitSet) span(off, n int64) (lo, hi int64) {
	if n <= 0 || off >= s.size {
		return 0, 0
	}
	return off >> s.shift, min(s.n, (off+n-1)>>s.shift+1)
}

// covers says whether all bits of n bytes at off are set.
func (s *bitSet) covers(off, n int64) bool {
	lo, hi := s.span(off, n)
	for lo < hi {
		p := lo / pageBits
		end := min(hi, (p+1)*pageBits)
		page := s.pages[p].Load()
		switch page {
		case onesPage():
		case nil:
			return false
		default:
			if !page.all(lo-p*pageBits, end-p*pageBits) {
				return false
			}
		}
		lo = end
	}
	return true
}

// setRange sets the bits of the granules that n bytes at off touch.
func (s *bitSet) setRange(off, n int64) {
	lo, hi := s.span(off, n)
	s.setBits(lo, hi)
}

func (s *bitSet) setBits(lo, hi int64) {
	for lo < hi {
		p := lo / pageBits
		base := p * pageBits
		end := min(hi, base+pageBits)
		s.setPage(p, lo-base, end-base)
		lo = end
	}
}

// setPage sets the bits [lo, hi) of page p.
func (s *bitSet) setPage(p, lo, hi int64) {
	whole := lo == 0 && hi == min(pageBits, s.n-p*pageBits)
	for {
		page := s.pages[p].Load()
		switch {
		case page == onesPage():
			return
		case whole || page == nil && !s.room():
			// Where there is no room for a page, more is dirty than was written:
			// that is still true.
			if s.pages[p].CompareAndSwap(page, onesPage()) {
				s.touch(p)
				if page != nil {
					s.giveRoom()
				}
				return
			}
		case page == nil:
			if page = new(bitPage); !s.pages[p].CompareAndSwap(nil, page) {
				s.giveRoom()
				continue
			}
			fallthrough
		default:
			if page.set(lo, hi) {
				s.touch(p)
			}
			return
		}
	}
}

const pageBytes = pageBits / 8

func (s *bitSet) room() bool {
	if s.budget.Table("dirty bitmap", pageBytes) != nil {
		return false
	}
	s.reserved.Add(pageBytes)
	return true
}

func (s *bitSet) giveRoom() {
	s.budget.Release(pageBytes)
	s.reserved.Add(-pageBytes)
}

// mask has the bits [lo, hi) of word w.
func mask(w, lo, hi int64) uint64 {
	m := ^uint64(0)
	if lo > w*64 {
		m &= ^uint64(0) << (lo - w*64)
	}
	if hi < (w+1)*64 {
		m &= 1<<(hi-w*64) - 1
	}
	return m
}

// set sets bits and says whether any was not set.
func (p *bitPage) set(lo, hi int64) (changed bool) {
	for w := lo / 64; w*64 < hi; w++ {
		m := mask(w, lo, hi)
		if atomic.LoadUint64(&p[w])&m != m {
			atomic.OrUint64(&p[w], m)
			changed = true
		}
	}
	return changed
}

func (p *bitPage) all(lo, hi int64) bool {
	for w := lo / 64; w*64 < hi; w++ {
		if m := mask(w, lo, hi); atomic.LoadUint64(&p[w])&m != m {
			return false
		}
	}
	return true
}

// word returns 64 bits from bit w*64 on, those beyond the end zero.
func (s *bitSet) word(w int64) uint64 {
	page := s.pages[w*64/pageBits].Load()
	if page == nil {
		return 0
	}
	return atomic.LoadUint64(&page[w%(pageBits/64)]) & mask(w, 0, s.n)
}

// run returns the state of bit g, and how many bits from it on, up to limit, have
// the same.
func (s *bitSet) run(g, limit int64) (set bool, n int64) {
	limit = min(limit, s.n)
	set = s.word(g/64)>>(g%64)&1 != 0
	for i := g; i < limit; {
		if page := s.pages[i/pageBits].Load(); page == nil && !set || page == onesPage() && set {
			i = (i/pageBits + 1) * pageBits
			n = i - g
			continue
		}
		w := s.word(i / 64)
		if set {
			w = ^w
		}
		w >>= i % 64
		if w != 0 {
			return set, min(limit, i+int64(bits.TrailingZeros64(w))) - g
		}
		i = (i/64 + 1) * 64
		n = i - g
	}
	return set, min(n, limit-g)
}

// bytes returns how many bytes of the disk are in granules whose bit is set.
func (s *bitSet) bytes() int64 {
	var n int64
	for p := range s.pages {
		base := int64(p) * pageBits
		switch page := s.pages[p].Load(); page {
		case nil:
		case onesPage():
			n += min(pageBits, s.n-base)
		default:
			for w := base / 64; w*64 < min(s.n, base+pageBits); w++ {
				n += int64(bits.OnesCount64(s.word(w)))
			}
		}
	}
	last := s.n - 1
	over := s.n<<s.shift - s.size
	if n == 0 || s.word(last/64)>>(last%64)&1 == 0 {
		over = 0
	}
	return n<<s.shift - over
}

// allUnset says whether no bit in [lo, hi) is set, where that can be told without
// looking at bits.
func (s *bitSet) allUnset(lo, hi int64) bool {
	for p := lo / pageBits; p*pageBits < min(hi, s.n); p++ {
		if s.pages[p].Load() != nil {
			return false
		}
	}
	return true
}

// export encodes the bits from bit lo on, a multiple of 8, as they are stored
// (section "Bitmap data"): the first one is the lowest of the first byte.
func (s *bitSet) export(dst []byte, lo int64) (zero, ones bool) {
	zero, ones = true, true
	for i := 0; i < len(dst); i += 8 {
		var v uint64
		if at := lo + int64(i)*8; at < s.n {
			v = s.word(at / 64)
			if v != 0 {
				zero = false
			}
			if v != mask(at/64, 0, s.n) {
				ones = false
			}
		}
		binary.LittleEndian.PutUint64(dst[i:], v)
	}
	return zero, ones
}

// load sets the bits that src, stored bits from bit lo on, has.
func (s *bitSet) load(src []byte, lo int64) error {
	for len(src) > 0 && lo < s.n {
		p := lo / pageBits
		base := p * pageBits
		part := src[:min(int64(len(src)), (base+pageBits-lo)/8)]
		if err := s.loadPage(p, lo-base, part); err != nil {
			return err
		}
		src, lo = src[len(part):], lo+int64(len(part))*8
	}
	return nil
}

func (s *bitSet) loadPage(p, lo int64, src []byte) error {
	valid := min(pageBits, s.n-p*pageBits)
	page := s.pages[p].Load()
	if page == onesPage() {
		return nil
	}
	for i := 0; i < len(src); i += 8 {
		w := (lo + int64(i)*8) / 64
		if w*64 >= valid {
			break
		}
		v := binary.LittleEndian.Uint64(src[i:]) & mask(w, 0, valid)
		if v == 0 {
			continue
		}
		if page == nil {
			if err := s.budget.Table("dirty bitmap", pageBytes); err != nil {
				return err
			}
			s.reserved.Add(pageBytes)
			page = new(bitPage)
			s.pages[p].Store(page)
		}
		page[w] |= v
	}
	if page != nil && page.all(0, valid) {
		s.pages[p].Store(onesPage())
		s.giveRoom()
	}
	return nil
}

// resized returns the set for a disk of another size, with new bits unset. The
// caller releases s, or the other if it is not used.
func (s *bitSet) resized(size int64) (*bitSet, error) {
	t, err := newBitSet(size, s.shift, s.budget)
	if err != nil {
		return nil, err
	}
	both := min(s.n, t.n)
	for p := int64(0); p*pageBits < both; p++ {
		page := s.pages[p].Load()
		if page == nil {
			continue
		}
		// Pages are shared by both, until one of them is thrown away; what is cut
		// or grown is copied.
		whole := min(pageBits, both-p*pageBits)
		if page == onesPage() && whole == min(pageBits, t.n-p*pageBits) {
			t.pages[p].Store(onesPage())
			continue
		}
		if !t.room() {
			t.release()
			return nil, driver.Errorf(driver.ErrBudget, "dirty bitmap exceeds the memory limit for image metadata")
		}
		c := new(bitPage)
		for w := int64(0); w*64 < whole; w++ {
			c[w] = page[w] & mask(w, 0, whole)
		}
		t.pages[p].Store(c)
	}
	for i := range min(len(t.touched), len(s.touched)) {
		t.touched[i].Store(s.touched[i].Load())
	}
	for _, p := range []int64{(s.n - 1) / pageBits, (t.n - 1) / pageBits} {
		if s.n > 0 && t.n > 0 && p < int64(len(t.pages)) {
			t.touch(p)
		}
	}
	return t, nil
}
