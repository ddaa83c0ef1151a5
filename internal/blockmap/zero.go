package blockmap

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// WriteZeroes is that of driver.ZeroWriter. Units that have room keep it: they are
// zeroed in the file, where that has a way to do it.
func (m *Disk) WriteZeroes(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	z, ok := m.file.(driver.ZeroWriter)
	if !ok {
		return driver.ErrUnsupported
	}
	return m.eachRun(ctx, off, n, func(p piece, off int64) error {
		switch {
		case p.state == Data && m.l.FreeUnits && flags&driver.ZeroMayUnmap != 0:
			return m.zeroAndFree(ctx, z, p, off)
		case p.state == Data:
			return z.WriteZeroes(ctx, p.host, p.n, flags)
		case p.state == Zero, p.state == Absent && !m.l.Backing && !m.l.ZeroState:
			return nil
		case !m.l.ZeroState, p.partial:
			return driver.ErrUnsupported
		}
		return m.setState(ctx, off, p.n, Zero)
	})
}

// ZeroData zeroes what units have in a range, in the file. Absent units stay so.
func (m *Disk) ZeroData(ctx context.Context, off, n int64) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	return m.eachRun(ctx, off, n, func(p piece, _ int64) error {
		if p.state != Data {
			return nil
		}
		if z, ok := m.file.(driver.ZeroWriter); ok {
			return z.WriteZeroes(ctx, p.host, p.n, 0)
		}
		return writeZeroes(ctx, m.file, p.host, p.n)
	})
}

// Discard is that of driver.Discarder. What has room reads as zeroes afterwards, if
// the file can give that up, or as before.
func (m *Disk) Discard(ctx context.Context, off, n int64) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	d, ok := m.file.(driver.Discarder)
	return m.eachRun(ctx, off, n, func(p piece, off int64) error {
		if p.state != Data {
			return nil
		}
		u0, u1 := m.whole(off, p.n)
		if m.l.FreeUnits && !m.l.Backing && u0 < u1 {
			return m.setState(ctx, u0*m.l.Unit, min(u1*m.l.Unit, m.size.Load())-u0*m.l.Unit, Absent)
		}
		if !ok {
			return nil
		}
		return d.Discard(ctx, p.host, p.n)
	})
}

// zeroAndFree takes the whole units of a run out of the table and zeroes the rest.
func (m *Disk) zeroAndFree(ctx context.Context, z driver.ZeroWriter, p piece, off int64) error {
	unit, end := m.l.Unit, off+p.n
	u0, u1 := m.whole(off, p.n)
	if m.l.Backing || u0 >= u1 {
		return z.WriteZeroes(ctx, p.host, p.n, 0)
	}
	if head := u0*unit - off; head > 0 {
		if err := z.WriteZeroes(ctx, p.host, head, 0); err != nil {
			return err
		}
	}
	if tail := end - u1*unit; tail > 0 {
		if err := z.WriteZeroes(ctx, p.host+p.n-tail, tail, 0); err != nil {
			return err
		}
	}
	return m.setState(ctx, u0*unit, min(u1*unit, m.size.Load())-u0*unit, Absent)
}

// whole returns the units that lie in a range as a whole; the last one of the disk
// counts as whole if it is to its end.
func (m *Disk) whole(off, n int64) (u0, u1 int64) {
	end := off + n
	if end >= m.size.Load() {
		end = roundUp(end, m.l.Unit)
	}
	return roundUp(off, m.l.Unit) / m.l.Unit, end / m.l.Unit
}

// eachRun calls fn for the runs of a range. The places that it is told stay what
// they are until it returns.
func (m *Disk) eachRun(ctx context.Context, off, n int64, fn func(p piece, off int64) error) error {
	size := m.size.Load()
	if off < 0 || n < 0 || off > size-n {
		return driver.Errorf(driver.ErrRange, "%d bytes at %d: beyond the end of the disk", n, off)
	}
	for end := off + n; off < end; {
		token := m.env.Guard.Enter()
		p, err := m.run(ctx, off, end-off)
		if err == nil {
			p.n = min(p.n, end-off)
			err = fn(p, off)
		}
		m.env.Guard.Exit(token)
		if err != nil {
			return err
		}
		off += p.n
	}
	return nil
}

// setState makes whole units Zero or Absent.
func (m *Disk) setState(ctx context.Context, off, n int64, to State) error {
	u0, u1 := m.whole(off, n)
	if u0 >= u1 || u0*m.l.Unit != off || min(u1*m.l.Unit, m.size.Load()) != off+n {
		return driver.ErrUnsupported
	}
	for u := u0; u < u1; u += maxRun {
		if err := m.relieve(ctx); err != nil {
			return err
		}
		if err := m.setUnits(ctx, u, min(u+maxRun, u1), to); err != nil {
			return err
		}
	}
	return nil
}

func (m *Disk) setUnits(ctx context.Context, u0, u1 int64, to State) error {
	if to != Absent && m.l.Dir != nil {
		for u := u0; u < u1; u = (u/m.l.perTable() + 1) * m.l.perTable() {
			if err := m.ensureTable(ctx, u); err != nil {
				return err
			}
		}
	}
	c, err := m.pend.Reserve(ctx, u0, u1)
	if err != nil {
		return err
	}
	defer m.pend.Remove(c)
	_, err = m.edit(ctx, u0, u1, func(_ int64, old Entry) Entry {
		if old.State == Data {
			if to == Zero {
				return old // written since: the writer came last
			}
			m.drops = append(m.drops, old.Host)
		}
		return Entry{State: to}
	})
	return err
}
