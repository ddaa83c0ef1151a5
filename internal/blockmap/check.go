package blockmap

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// Problem is what is wrong with an entry.
type Problem uint8

// The problems of entries.
const (
	Invalid    Problem = iota + 1 // it cannot be right, whatever the file has
	Beyond                        // the unit, or the table, begins behind the end of the file
	Twice                         // another entry names the same place
	BadTable                      // an entry of the directory cannot be right, or names a table behind the end
	TableTwice                    // what it names is in use already
)

// Finding is a problem that Check found.
type Finding struct {
	Problem Problem
	Unit    int64 // the number of the unit; of BadTable and TableTwice, that of the directory entry
	Raw     uint64
	Entry   Entry
}

// MaxFindings bounds how many findings Check reports, so that a table of nonsense costs
// little memory. A repair of more takes several passes.
const MaxFindings = 1 << 18

// Usage is what Check found out about an image as a whole.
type Usage struct {
	Units      int64 // of the disk
	Allocated  int64 // units that have data, each of them counted
	Fragmented int64 // of those, the ones that do not follow the one before in their table
	Tables     int64 // that a directory names
	// Slots is how many grains there are up to the end of the file, Used how many of
	// them an entry, a directory or Reserved accounts for.
	Slots, Used int64
	// Gaps is how many units fit in what is free before End.
	Gaps    int64
	Further int64 // findings beyond MaxFindings, which were not reported
	End     int64 // where the last unit or table in use ends; at least that of Reserved
}

// Check looks at all tables and tells report what is wrong, in the order of the
// disk. What was changed is written first. No other change is under way.
func (m *Disk) Check(ctx context.Context, report func(Finding)) (*Usage, error) {
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	if m.begun.Load() {
		if err := m.writeback(ctx, true); err != nil {
			return nil, err
		}
	}
	l := &m.l
	size := m.file.Size()
	u := &Usage{Units: roundUp(m.size.Load(), l.Unit) / l.Unit, End: l.reservedEnd(), Slots: max(0, (size-l.First)/l.grain())}
	used, err := m.newPlaces()
	if err != nil {
		return nil, err
	}
	defer used.release()
	take := func(off, n int64) (twice bool) {
		fresh, twice := used.take(off, n)
		u.Used += fresh
		return twice
	}
	for _, r := range l.Reserved {
		take(r.Offset, r.Length)
	}
	var next int64
	tell, told := report, 0
	report = func(f Finding) {
		if told++; told > MaxFindings {
			u.Further++
			return
		}
		tell(f)
	}
	err = m.scanTables(ctx, scanner{
		table: func(off int64) bool {
			if take(off, l.Dir.TableBytes) {
				return false
			}
			u.Tables++
			u.End = max(u.End, off+l.Dir.TableBytes)
			next = 0
			return true
		},
		badTable: func(i int64, raw uint64, twice bool) {
			f := Finding{Problem: BadTable, Unit: i, Raw: raw}
			if twice {
				f.Problem = TableTwice
			}
			report(f)
		},
		entry: func(unit int64, e Entry, raw uint64) error {
			f := Finding{Unit: unit, Raw: raw, Entry: e}
			switch {
			case e.State == Bad:
				f.Problem = Invalid
			case e.State != Data:
				return nil
			case e.Host >= size, l.WholeUnits && e.Host > size-l.Unit:
				f.Problem = Beyond
			case take(e.Host, l.Unit):
				f.Problem = Twice
			}
			if e.State == Data {
				u.Allocated++
				if next != 0 && e.Host != next {
					u.Fragmented++
				}
				next = e.Host + l.Unit
				if f.Problem != Beyond {
					u.End = max(u.End, next)
				}
			}
			if f.Problem != 0 {
				report(f)
			}
			return nil
		},
	})
	if err == nil && m.hooks.InUse != nil {
		err = m.hooks.InUse(ctx, func(off, n int64) {
			if off < size {
				take(off, n)
				u.End = max(u.End, off+n)
			}
		})
	}
	if err == nil {
		err = used.err
	}
	u.Gaps = used.unitsFree(min(u.End, size), l.Unit)
	return u, err
}

// Entries calls visit for every entry that is not Absent, in the order of the disk, as
// the file has it. What was changed is written first.
func (m *Disk) Entries(ctx context.Context, visit func(unit int64, e Entry) error) error {
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	if m.begun.Load() {
		if err := m.writeback(ctx, true); err != nil {
			return err
		}
	}
	return m.scan(ctx, nil, visit)
}

var _ driver.ZeroWriter = (*Disk)(nil)
