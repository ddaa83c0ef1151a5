package blockmap

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// maxRun bounds how many units one request allocates.
const maxRun = 4096

// begin is called before every change.
func (m *Disk) begin(ctx context.Context) error {
	if m.begun.Load() {
		return nil
	}
	if !m.l.Writable {
		return driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	m.beginMu.Lock()
	defer m.beginMu.Unlock()
	if m.begun.Load() {
		return nil
	}
	if m.hooks.FirstWrite != nil {
		if err := m.hooks.FirstWrite(ctx); err != nil {
			return err
		}
	}
	m.begun.Store(true)
	return nil
}

// plan is what can be done for a write.
type plan struct {
	state planState
	need  need
	units int64
	host  int64 // of the first unit, if in place
	ask   int64 // planSectors: of the unit
}

type planState uint8

const (
	planMissing planState = iota // a table must be made or loaded
	planWait                     // another change is pending
	planSectors                  // which sectors are there must be found out
	planInPlace
	planNew
)

// look says what can be done for a write of n bytes at off, as far as that is the
// same for all units. mu is held.
func (m *Disk) look(off, n int64) (plan, error) {
	first, end := off/m.l.Unit, (off+n-1)/m.l.Unit+1
	var p plan
	for u := first; u < end; u++ {
		state := planNew
		var e Entry
		if m.pend.Conflict(u, u+1) != nil {
			state = planWait
		} else if at, need, err := m.place(u); err != nil {
			return plan{}, err
		} else if at.slice == nil {
			state, p.need = planMissing, need
		} else if e = m.decode(at.slice.Data[at.in:]); e.State == Bad {
			if u == first {
				return plan{}, m.badEntry(u, at.slice.Data[at.in:])
			}
			break
		} else if e.State == Data {
			state, p.ask = m.sectorPlan(e), e.Host
		}
		if u == first {
			p.state, p.units, p.host = state, 1, e.Host
			if state == planMissing || state == planWait || state == planSectors {
				return p, nil
			}
			continue
		}
		if state != p.state || state == planInPlace && e.Host != p.host+(u-first)*m.l.Unit || state == planNew && m.l.Prefix > 0 {
			break
		}
		p.units++
	}
	return p, nil
}

// Allocate is that of driver.Allocator.
func (m *Disk) Allocate(ctx context.Context, off, n int64) (driver.WriteTarget, error) {
	if off < 0 || n <= 0 || off >= m.size.Load() {
		return driver.WriteTarget{}, driver.Errorf(driver.ErrRange, "write of %d bytes at %d: beyond the end of the disk", n, off)
	}
	if err := m.begin(ctx); err != nil {
		return driver.WriteTarget{}, err
	}
	if err := m.relieve(ctx); err != nil {
		return driver.WriteTarget{}, err
	}
	unit := m.l.Unit
	n = min(n, m.size.Load()-off, maxRun*unit-off%unit)
	first := off / unit
	for {
		if err := ctx.Err(); err != nil {
			return driver.WriteTarget{}, err
		}
		m.mu.RLock()
		p, err := m.look(off, n)
		m.mu.RUnlock()
		if err != nil {
			return driver.WriteTarget{}, err
		}
		switch p.state {
		case planInPlace:
			in := off % unit
			if m.hooks.Rewrite != nil {
				for i := range p.units {
					if err := m.hooks.Rewrite(ctx, p.host+i*unit); err != nil {
						return driver.WriteTarget{}, err
					}
				}
			}
			return driver.WriteTarget{Length: min(n, p.units*unit-in), Child: m.file, HostOffset: p.host + in}, nil
		case planWait:
			if err := m.pend.Wait(ctx, first); err != nil {
				return driver.WriteTarget{}, err
			}
			continue
		case planSectors:
			if _, err := m.sectors(ctx, first, p.ask); err != nil {
				return driver.WriteTarget{}, err
			}
			continue
		case planMissing:
			if err := m.needTable(ctx, first, p.need); err != nil {
				return driver.WriteTarget{}, err
			}
			continue
		}
		if err := m.needRoom(ctx); err != nil {
			return driver.WriteTarget{}, err
		}
		m.mu.Lock()
		p, err = m.look(off, n)
		if err != nil || p.state != planNew {
			m.mu.Unlock()
			if err != nil {
				return driver.WriteTarget{}, err
			}
			continue
		}
		c := &pending{Change: clustertable.Change{First: first, End: first + p.units}, m: m}
		m.pend.Add(&c.Change)
		m.mu.Unlock()
		return m.target(off, n, c)
	}
}

// target answers for a write that c prepares, after finding room.
func (m *Disk) target(off, n int64, c *pending) (driver.WriteTarget, error) {
	host, got, fresh, err := m.claim(c.End - c.First)
	if err != nil {
		m.pend.Remove(&c.Change)
		return driver.WriteTarget{}, err
	}
	m.mu.Lock()
	c.host, c.End = host, c.First+got
	m.mu.Unlock()
	unit := m.l.Unit
	in := off % unit
	length := min(n, got*unit-in)
	tail := got*unit - in - length
	c.short = fresh && tail > 0
	return driver.WriteTarget{Length: length, Child: m.file, HostOffset: host + in, Head: in, Tail: tail, ZeroFilled: fresh, Pending: c}, nil
}

// pending is a write to units that had no room.
type pending struct {
	clustertable.Change
	m     *Disk
	host  int64
	short bool // the end of the last unit may not have been written
}

// Commit links the units that were written.
func (c *pending) Commit(ctx context.Context) error {
	m := c.m
	defer m.pend.Remove(&c.Change)
	done, err := c.First, error(nil)
	if c.short {
		err = m.cover(ctx, c.host+(c.End-c.First)*m.l.Unit)
	}
	if err == nil && m.hooks.NewUnit != nil {
		err = m.hooks.NewUnit(ctx, c.host)
	}
	if err == nil {
		m.written(c.host)
		done, err = m.edit(ctx, c.First, c.End, func(u int64, old Entry) Entry {
			if old.State == Data { // a part of it was missing
				m.drops = append(m.drops, old.Host)
			}
			return Entry{State: Data, Host: c.host + (u-c.First)*m.l.Unit}
		})
	}
	if err != nil {
		m.giveBack(c.host+(done-c.First)*m.l.Unit, c.End-done)
	}
	return err
}

// Abort gives the room back.
func (c *pending) Abort(context.Context) {
	c.m.giveBack(c.host, c.End-c.First)
	c.m.pend.Remove(&c.Change)
}

// cover makes the file end at end at least, which is the end of a unit that nobody
// else writes to and whose last bytes were not written.
func (m *Disk) cover(ctx context.Context, end int64) error {
	if end <= m.file.Size() {
		return nil
	}
	_, err := m.file.WriteAt(ctx, []byte{0}, end-1)
	return err
}

// ensureTable makes sure that there is a table for unit u.
func (m *Disk) ensureTable(ctx context.Context, u int64) error {
	for {
		m.mu.RLock()
		at, n, err := m.place(u)
		m.mu.RUnlock()
		if err != nil || at.slice != nil {
			return err
		}
		if err := m.needTable(ctx, u, n); err != nil {
			return err
		}
	}
}

// needTable makes the table for unit u, or loads what is missing of it.
func (m *Disk) needTable(ctx context.Context, u int64, n need) error {
	if n.off != 0 {
		return m.load(ctx, n)
	}
	if err := m.needRoom(ctx); err != nil {
		return err
	}
	m.tableMu.Lock()
	defer m.tableMu.Unlock()
	d := m.l.Dir
	i := u / m.l.perTable()
	for {
		m.mu.RLock()
		off, n, err := m.tableOf(i)
		m.mu.RUnlock()
		if err != nil || off != 0 {
			return err
		}
		if n.off == 0 {
			break
		}
		if err := m.load(ctx, n); err != nil {
			return err
		}
	}
	off, _, err := m.claimBytes(d.TableBytes, d.Align)
	if err != nil {
		return err
	}
	if err := writeZeroes(ctx, m.file, off, d.TableBytes); err != nil {
		m.giveBackBytes(off, d.TableBytes)
		return err
	}
	size := m.dir.SliceSize()
	at := i * int64(d.Width)
	return m.dir.Edit(ctx, m.file, func() int64 { return d.Off + at/size*size }, func(s *clustertable.Slice) bool {
		putWord(m.l.Order, d.Width, s.Data[at%size:], d.Encode(off))
		return true
	})
}

// writeZeroes writes zeroes as data, so that they have room on disk.
func writeZeroes(ctx context.Context, f driver.Storage, off, n int64) error {
	buf := bufpool.Get(int(min(n, 1<<20)))
	defer bufpool.Put(buf)
	clear(buf)
	for n > 0 {
		b := buf[:min(n, int64(len(buf)))]
		if _, err := f.WriteAt(ctx, b, off); err != nil {
			return err
		}
		off, n = off+int64(len(b)), n-int64(len(b))
	}
	return nil
}
