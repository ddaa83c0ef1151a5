package blockmap

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// need names a slice that is not in memory.
type need struct {
	off int64 // 0: nothing is missing
	dir bool  // of the directory
	u   int64 // for which unit
}

// spot is where an entry is in memory. slice is nil if there is no table for it.
type spot struct {
	slice *clustertable.Slice
	in    int // byte in the slice
	step  int // bytes to the entry of the next unit, within the slice
}

// place finds the entry of a unit. mu is held.
func (m *Disk) place(u int64) (spot, need, error) {
	off, in, n, err := m.offset(u)
	if err != nil || n.off != 0 || off == 0 {
		return spot{}, n, err
	}
	s := m.tab.Get(off)
	if s == nil {
		return spot{}, need{off: off, u: u}, nil
	}
	return spot{s, in, m.l.Width}, need{}, nil
}

// offset returns where the slice with the entry of a unit begins, and the byte of the
// entry in it; 0 if there is no table. mu is held.
func (m *Disk) offset(u int64) (off int64, in int, n need, err error) {
	width, size := int64(m.l.Width), m.tab.SliceSize()
	if m.l.Dir == nil {
		if m.l.Index != nil {
			u = m.l.Index(u)
		}
		at := u * width
		return m.l.Table + at/size*size, int(at % size), need{}, nil
	}
	table, n, err := m.tableOf(u / m.l.perTable())
	if err != nil || n.off != 0 || table == 0 {
		n.u = u
		return 0, 0, n, err
	}
	at := u % m.l.perTable() * width
	return table + at/size*size, int(at % size), need{}, nil
}

// tableOf returns the offset of table i of the directory, 0 if there is none. mu is
// held.
func (m *Disk) tableOf(i int64) (int64, need, error) {
	d, size := m.l.Dir, m.dir.SliceSize()
	at := i * int64(d.Width)
	s := m.dir.Get(d.Off + at/size*size)
	if s == nil {
		return 0, need{off: d.Off + at/size*size, dir: true}, nil
	}
	raw := word(m.l.Order, d.Width, s.Data[at%size:])
	off, ok := d.Decode(raw)
	if !ok || off < 0 || off > maxOffset {
		return 0, need{}, driver.Errorf(driver.ErrCorrupt, "entry %d of the directory (%#x) refers to a place where no table can be", i, raw)
	}
	return off, need{}, nil
}

// load brings a slice into memory.
func (m *Disk) load(ctx context.Context, n need) error {
	if n.dir {
		return m.dir.Load(ctx, m.file, n.off)
	}
	if m.l.Dir != nil && n.off+m.tab.SliceSize() > m.file.Size() {
		return driver.Errorf(driver.ErrCorrupt, "the table for %s %d at offset %d reaches beyond the end of the file", m.l.Noun, n.u, n.off)
	}
	return m.tab.Load(ctx, m.file, n.off)
}

// needSlices loads what is missing of the entries of units [u0, u1), which may be
// pushed out again at once.
func (m *Disk) needSlices(ctx context.Context, u0, u1 int64) error {
	for u := u0; u < u1; {
		m.mu.RLock()
		at, n, err := m.place(u)
		m.mu.RUnlock()
		switch {
		case err != nil:
			return err
		case n.off != 0:
			if err := m.load(ctx, n); err != nil {
				return err
			}
		case at.slice == nil:
			u = (u/m.l.perTable() + 1) * m.l.perTable()
		case m.l.Index != nil:
			u++
		default:
			u += int64(len(at.slice.Data)-at.in) / int64(m.l.Width)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// edit changes the entries of units [u0, u1), which the caller has reserved. Units
// without a table are passed over, and entries that are Bad refused. It returns the
// first unit that was not done.
func (m *Disk) edit(ctx context.Context, u0, u1 int64, fn func(u int64, old Entry) Entry) (int64, error) {
	return m.editAny(ctx, u0, u1, false, fn)
}

// editAny is edit, and lets fn replace Bad entries if so asked.
func (m *Disk) editAny(ctx context.Context, u0, u1 int64, replaceBad bool, fn func(u int64, old Entry) Entry) (int64, error) {
	for u := u0; u < u1; {
		if err := m.needSlices(ctx, u, u+1); err != nil {
			return u, err
		}
		again, bad := false, error(nil)
		at := func() int64 {
			off, _, n, err := m.offset(u)
			again, bad = n.off != 0, err
			return off
		}
		err := m.tab.Edit(ctx, m.file, at, func(s *clustertable.Slice) (changed bool) {
			if again || bad != nil {
				return false
			}
			if s == nil {
				u = (u/m.l.perTable() + 1) * m.l.perTable()
				return false
			}
			for u < u1 {
				_, in, _, _ := m.offset(u)
				b := s.Data[in:]
				old := m.decode(b)
				if old.State == Bad && !replaceBad {
					bad = m.badEntry(u, b)
					return changed
				}
				if e := fn(u, old); e != old {
					putWord(m.l.Order, m.l.Width, b, m.l.Encode(e))
					changed = true
				}
				u++
				if m.l.Index != nil || in+m.l.Width >= len(s.Data) {
					return changed
				}
			}
			return changed
		})
		if err == nil {
			err = bad
		}
		if err != nil {
			return u, err
		}
	}
	return u1, nil
}
