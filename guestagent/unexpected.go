package guestagent

// firstUnexpected returns the argument that QEMU complains of when several are
// unexpected: the first one in the order of the GLib hash table that it keeps the
// names in. all has the names in the order of their insertion into it; the declared
// ones among them are removed before the look.
func firstUnexpected(all, declared []string) string {
	t := newGlibTable()
	for _, key := range all {
		t.insert(key)
	}
	for _, key := range declared {
		t.remove(key)
	}
	for _, s := range t.slots {
		if s.state == slotUsed {
			return s.key
		}
	}
	return ""
}

type slotState uint8

const (
	slotFree slotState = iota
	slotUsed
	slotRemoved
)

type glibSlot struct {
	state slotState
	hash  uint32
	key   string
}

// glibTable places keys as GLib's GHashTable does (2.59 and later): open addressing
// with growing steps in a table whose size is a power of two.
type glibTable struct {
	slots    []glibSlot
	shift    int
	nodes    int
	occupied int // nodes and slots of removed ones
}

// glibPrimes has the greatest prime below each power of two, from 2^0.
var glibPrimes = []uint32{1, 2, 3, 7, 13, 31, 61, 127, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071, 262139,
	524287, 1048573, 2097143, 4194301, 8388593, 16777213}

const glibMinShift = 3

func newGlibTable() *glibTable {
	return &glibTable{slots: make([]glibSlot, 1<<glibMinShift), shift: glibMinShift}
}

// glibHash is g_str_hash; 0 and 1 mark slots and are moved.
func glibHash(key string) uint32 {
	h := uint32(5381)
	for i := range len(key) {
		h = h*33 + uint32(int32(int8(key[i])))
	}
	return max(h, 2)
}

func (t *glibTable) first(hash uint32) uint32 { return hash * 11 % glibPrimes[t.shift] }

// find returns the slot of a key, or where it would be put.
func (t *glibTable) find(key string, hash uint32) int {
	mask := uint32(len(t.slots) - 1)
	removed := -1
	i := t.first(hash)
	for step := uint32(1); t.slots[i].state != slotFree; step++ {
		s := &t.slots[i]
		if s.state == slotUsed && s.hash == hash && s.key == key {
			return int(i)
		}
		if s.state == slotRemoved && removed < 0 {
			removed = int(i)
		}
		i = (i + step) & mask
	}
	if removed >= 0 {
		return removed
	}
	return int(i)
}

func (t *glibTable) insert(key string) {
	hash := glibHash(key)
	s := &t.slots[t.find(key, hash)]
	if s.state == slotUsed {
		return
	}
	if s.state == slotFree {
		t.occupied++
	}
	*s = glibSlot{slotUsed, hash, key}
	t.nodes++
	t.maybeResize()
}

func (t *glibTable) remove(key string) {
	s := &t.slots[t.find(key, glibHash(key))]
	if s.state != slotUsed {
		return
	}
	*s = glibSlot{state: slotRemoved}
	t.nodes--
	t.maybeResize()
}

func (t *glibTable) maybeResize() {
	size := len(t.slots)
	if !(size > t.nodes*4 && size > 1<<glibMinShift || size <= t.occupied+t.occupied/16) {
		return
	}
	shift := 0
	for n := int(float64(t.nodes) * 1.333); n > 0; n >>= 1 {
		shift++
	}
	shift = max(shift, glibMinShift)
	if shift >= len(glibPrimes) {
		return
	}
	t.rehash(shift)
}

// rehash moves the nodes to their places in a table of another size, in place: a
// node that another one stands in the way of pushes it out, and that one goes on.
func (t *glibTable) rehash(shift int) {
	size := 1 << shift
	old := t.slots
	room := make([]glibSlot, max(size, len(old)))
	copy(room, old)
	moved := make([]bool, max(size, len(old)))
	t.shift = shift
	mask := uint32(size - 1)
	for i := range old {
		if room[i].state != slotUsed {
			room[i] = glibSlot{}
			continue
		}
		if moved[i] {
			continue
		}
		node := room[i]
		room[i] = glibSlot{}
		for {
			at := t.first(node.hash)
			for step := uint32(1); moved[at]; step++ {
				at = (at + step) & mask
			}
			moved[at] = true
			pushed := room[at]
			room[at] = node
			if pushed.state != slotUsed {
				break
			}
			node = pushed
		}
	}
	t.slots = room[:size]
	t.occupied = t.nodes
}
