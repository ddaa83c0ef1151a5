package clustertable

import (
	"encoding/binary"
	"maps"
	"slices"
)

const (
	rootSector    = 512 // bytes that are written at once
	rootEntrySize = 8
	perSector     = rootSector / rootEntrySize
)

// Root is a table of 64-bit entries that is in memory as a whole, because it names
// other tables: an L1 table, a refcount table. Only the sectors that changed are
// written. The lock of the tables guards it. Make one with NewRoot.
type Root struct {
	Entries []uint64 // change them with Set
	Off     int64    // of the table in the file
	order   binary.AppendByteOrder
	dirty   map[int]struct{} // sectors
}

// NewRoot returns a table that lies at off of the file and has these entries
// there. It takes the entries over.
func NewRoot(entries []uint64, off int64, order binary.AppendByteOrder) Root {
	return Root{Entries: entries, Off: off, order: order, dirty: map[int]struct{}{}}
}

// Bytes returns the length of the table in the file.
func (r *Root) Bytes() int64 { return int64(len(r.Entries)) * rootEntrySize }

// Set changes entry i. The lock is held exclusively.
func (r *Root) Set(i int64, e uint64) {
	r.Entries[i] = e
	r.dirty[int(i/perSector)] = struct{}{}
}

// Replace puts longer or shorter entries in the place of all, keeping what is known
// of dirty sectors: those that end up behind the end are forgotten. The lock is held
// exclusively.
func (r *Root) Replace(entries []uint64) {
	r.Entries = entries
	maps.DeleteFunc(r.dirty, func(i int, _ struct{}) bool { return i*perSector >= len(entries) })
}

// Take returns a copy of the sectors that changed and marks them clean. The lock is
// held exclusively; one batch of a table at a time is under way.
func (r *Root) Take() *Batch {
	b := &Batch{}
	if len(r.dirty) == 0 {
		return b
	}
	sectors := slices.Sorted(maps.Keys(r.dirty))
	addSectors(b, r.Off, r.Entries, sectors, r.order)
	clear(r.dirty)
	b.done = func(err error) {
		if err == nil {
			return
		}
		for _, i := range sectors {
			if i*perSector < len(r.Entries) {
				r.dirty[i] = struct{}{}
			}
		}
	}
	return b
}

// Difference returns the sectors in which want differs from have, tables of the
// same length that lie at off of a file.
func Difference(off int64, have, want []uint64, order binary.AppendByteOrder) *Batch {
	var sectors []int
	for i := 0; i*perSector < len(want); i++ {
		end := min((i+1)*perSector, len(want))
		if !slices.Equal(have[i*perSector:end], want[i*perSector:end]) {
			sectors = append(sectors, i)
		}
	}
	b := &Batch{}
	addSectors(b, off, want, sectors, order)
	return b
}

// addSectors adds sectors of a table at off of a file.
func addSectors(b *Batch, off int64, table []uint64, sectors []int, order binary.AppendByteOrder) {
	buf := make([]byte, 0, rootSector)
	for _, i := range sectors {
		buf = buf[:0]
		for _, e := range table[i*perSector : min((i+1)*perSector, len(table))] {
			buf = order.AppendUint64(buf, e)
		}
		b.Add(off+int64(i)*rootSector, buf)
	}
}
