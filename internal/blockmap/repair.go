package blockmap

import (
	"context"
	"io"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// copyBuffer is how much of a unit is copied at once, in bytes.
const copyBuffer = 1 << 20

// Repair makes good what Check found: a unit whose place another one has, too, gets a
// copy of its own; entries that name nothing become Absent, which is all that can be
// done for them. A table that is there twice stays so. No request is under way.
func (m *Disk) Repair(ctx context.Context, found []Finding) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	// Copies come last: they lie behind all that an entry names, and what names a place far
	// behind the end of the file is gone by then.
	for _, copies := range []bool{false, true} {
		for _, f := range found {
			if (f.Problem == Twice) != copies {
				continue
			}
			var err error
			switch f.Problem {
			case Twice:
				if err = m.needRoom(ctx); err == nil {
					err = m.move(ctx, f.Unit, f.Entry.Host, nil)
				}
			case BadTable:
				err = m.dropTable(ctx, f.Unit)
			case TableTwice:
			default:
				_, err = m.editAny(ctx, f.Unit, f.Unit+1, true, func(int64, Entry) Entry { return Entry{} })
			}
			if err == nil {
				err = m.relieve(ctx)
			}
			if err != nil {
				return err
			}
		}
		if err := m.Flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

// dropTable takes entry i out of the directory.
func (m *Disk) dropTable(ctx context.Context, i int64) error {
	d, size := m.l.Dir, m.dir.SliceSize()
	at := i * int64(d.Width)
	return m.dir.Edit(ctx, m.file, func() int64 { return d.Off + at/size*size }, func(s *clustertable.Slice) bool {
		putWord(m.l.Order, d.Width, s.Data[at%size:], d.Encode(0))
		return true
	})
}

// move copies the data of a unit from its place to another one: to, or if that is nil
// new room.
func (m *Disk) move(ctx context.Context, u, from int64, to *int64) error {
	host := int64(0)
	if to != nil {
		host = *to
	} else {
		var err error
		if host, _, _, err = m.claim(1); err != nil {
			return err
		}
	}
	prefix := int64(0)
	if m.hooks.Sectors != nil {
		prefix = m.l.Prefix // tells which sectors are there
	}
	err := m.copyBytes(ctx, from-prefix, host-prefix, m.l.Unit+prefix)
	if err == nil && m.hooks.NewUnit != nil && prefix == 0 {
		err = m.hooks.NewUnit(ctx, host)
	}
	m.forget(host)
	if err == nil {
		var c *clustertable.Change
		if c, err = m.pend.Reserve(ctx, u, u+1); err == nil {
			_, err = m.edit(ctx, u, u+1, func(_ int64, old Entry) Entry { return Entry{State: Data, Host: host, Partial: old.Partial} })
			m.pend.Remove(c)
		}
	}
	if err != nil && to == nil {
		m.giveBack(host, 1)
	}
	return err
}

// copyBytes copies n bytes in the file.
func (m *Disk) copyBytes(ctx context.Context, from, to, n int64) error {
	buf := bufpool.Get(int(min(n, copyBuffer)))
	defer bufpool.Put(buf)
	for n > 0 {
		b := buf[:min(n, int64(len(buf)))]
		got, err := m.file.ReadAt(ctx, b, from)
		if err != nil && err != io.EOF {
			return err
		}
		clear(b[got:])
		if _, err := m.file.WriteAt(ctx, b, to); err != nil {
			return err
		}
		from, to, n = from+int64(len(b)), to+int64(len(b)), n-int64(len(b))
	}
	return nil
}

// placed is a unit and where it lies.
type placed struct{ unit, host int64 }

const placedCost = 16 // bytes

// Compact moves the last units in the file to free places between the others, and
// cuts off what is free at the end. Nothing but reads may be under way.
func (m *Disk) Compact(ctx context.Context) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	if err := m.Flush(ctx); err != nil {
		return err
	}
	m.quiesce()
	m.room.mu.Lock()
	m.room.known, m.room.free, m.room.ready = false, nil, nil // what is free is found out below
	m.room.mu.Unlock()
	used, err := m.newPlaces()
	if err != nil {
		return err
	}
	defer used.release()
	var units []placed
	reserved := int64(0)
	defer func() { m.env.Budget.Release(reserved) }()
	l := &m.l
	end := l.reservedEnd()
	fixed := end
	for _, r := range l.Reserved {
		used.take(r.Offset, r.Length)
	}
	m.flushMu.Lock()
	err = m.scan(ctx, func(off int64) bool {
		used.take(off, l.Dir.TableBytes)
		fixed = max(fixed, off+l.Dir.TableBytes)
		return true
	}, func(u int64, e Entry) error {
		if e.State == Encoded {
			return driver.ErrUnsupported
		}
		if e.State != Data {
			return nil
		}
		if len(units)%4096 == 0 {
			if err := m.env.Budget.Table("the list of units", 4096*placedCost); err != nil {
				return err
			}
			reserved += 4096 * placedCost
		}
		units = append(units, placed{u, e.Host})
		used.take(e.Host, l.Unit)
		return nil
	})
	m.flushMu.Unlock()
	if err == nil {
		err = used.err
	}
	if err != nil {
		return err
	}
	slices.SortFunc(units, func(a, b placed) int { return int(min(max(a.host-b.host, -1), 1)) })
	if n := len(units); n > 0 {
		end = max(end, units[n-1].host+l.Unit)
	}
	var holes []int64
	if l.Grain == 0 || l.Reuse { // else the places are not those of units
		holes = used.holes(end, l.Unit)
	}
	last := len(units)
	for ; last > 0 && len(holes) > 0 && holes[0] < units[last-1].host && units[last-1].host >= fixed; last-- {
		if err := m.move(ctx, units[last-1].unit, units[last-1].host, &holes[0]); err != nil {
			return err
		}
		holes = holes[1:]
	}
	if err := m.Flush(ctx); err != nil {
		return err
	}
	m.quiesce()
	end = fixed
	if last > 0 {
		end = max(end, units[last-1].host+l.Unit)
	}
	if moved := len(units); moved > last { // those lie where holes were
		for _, u := range units[last:] {
			e, err := m.Entry(ctx, u.unit)
			if err != nil {
				return err
			}
			end = max(end, e.Host+l.Unit)
		}
	}
	m.room.mu.Lock()
	m.room.known, m.room.next, m.room.free, m.room.ready = true, end, nil, nil
	if l.Reuse {
		m.room.free = slices.DeleteFunc(holes, func(h int64) bool { return h >= end })
	}
	m.room.fresh = max(m.room.fresh, m.file.Size())
	m.room.taken = true
	m.room.mu.Unlock()
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	if err := m.countRoom(ctx); err != nil {
		return err
	}
	if err := m.trim(ctx); err != nil {
		return err
	}
	return m.file.Flush(ctx)
}

// quiesce waits for the end of all requests that may have been told places from
// before.
func (m *Disk) quiesce() {
	done := make(chan struct{})
	m.env.Guard.Defer(func() { close(done) })
	<-done
}

// Resized tells that the disk has another size now and the table perhaps another
// length or place, as the format has written it to the file. Of the layout, Table,
// Entries, First, Reserved, Limit, Decode and Encode can have changed, and the place and the
// length of the directory. Nothing but reads
// may be under way, and all was flushed.
func (m *Disk) Resized(l Layout, size int64) error {
	if err := l.checkEntries(size); err != nil {
		return err
	}
	m.quiesce()
	m.mu.Lock()
	defer m.mu.Unlock()
	o := &m.l
	o.Lowest, o.Table, o.Entries, o.First, o.Reserved, o.Limit, o.Decode, o.Encode = l.Lowest, l.Table, l.Entries, l.First, l.Reserved, l.Limit, l.Decode, l.Encode
	if o.Dir == nil {
		m.tab.SetEnd(o.tableEnd())
	} else if o.Dir.Off != l.Dir.Off || o.Dir.Entries != l.Dir.Entries {
		o.Dir = l.Dir
		m.dir.SetEnd(l.Dir.Off + l.Dir.Entries*int64(l.Dir.Width))
	}
	m.size.Store(size)
	m.room.mu.Lock()
	m.room.known, m.room.free, m.room.ready, m.room.floor = false, nil, nil, 0
	m.room.mu.Unlock()
	return nil
}

// Truncate takes the units that lie behind size out of the table. Nothing but reads
// may be under way.
func (m *Disk) Truncate(ctx context.Context, size int64) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	u0, u1 := roundUp(size, m.l.Unit)/m.l.Unit, roundUp(m.size.Load(), m.l.Unit)/m.l.Unit
	for u := u0; u < u1; u += maxRun {
		if err := m.relieve(ctx); err != nil {
			return err
		}
		if err := m.setUnits(ctx, u, min(u+maxRun, u1), Absent); err != nil {
			return err
		}
	}
	return m.Flush(ctx)
}

// Vacate moves the units that begin before end to the end of the file. Nothing but
// reads may be under way.
func (m *Disk) Vacate(ctx context.Context, end int64) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	if err := m.needRoom(ctx); err != nil {
		return err
	}
	m.room.mu.Lock()
	m.room.floor = end // also for what is given up and becomes free only later
	m.room.dropBelowFloor()
	m.room.next = max(m.room.next, end)
	m.room.mu.Unlock()
	var inWay []placed
	err := m.Entries(ctx, func(u int64, e Entry) error {
		if e.State == Data && e.Host < end {
			inWay = append(inWay, placed{u, e.Host})
		}
		return nil
	})
	for _, p := range inWay {
		if err == nil {
			err = m.move(ctx, p.unit, p.host, nil)
		}
	}
	if err == nil {
		err = m.Flush(ctx)
	}
	if err == nil {
		m.quiesce()
	}
	return err
}
