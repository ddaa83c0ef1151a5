package blockmap

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// Bounds on the memory for slices of tables, in bytes.
const (
	tableBudget      = 2 << 20
	sequentialBudget = 256 << 10
	dirBudget        = 256 << 10
)

// Disk is the mapping of an open image. It is safe for use by several goroutines,
// but for the methods that say otherwise.
type Disk struct {
	file  driver.Storage
	env   *driver.Env
	hooks Hooks
	size  atomic.Int64
	begun atomic.Bool

	beginMu sync.Mutex
	tableMu sync.Mutex
	flushMu sync.Mutex
	mu      sync.RWMutex
	room    room

	// Guarded by mu. The layout changes with Resize only.
	l        Layout
	tab, dir *clustertable.Cache
	pend     *clustertable.Changes
	drops    []int64 // hosts of units that entries no longer name

	bitsMu   sync.Mutex
	bits     map[int64][]byte // what Hooks.Sectors returned, by host
	reserved int64
}

// New returns the mapping of the image in file, a disk of size bytes. It reads
// nothing. The tables must have an entry for each unit.
func New(l Layout, hooks Hooks, file driver.Storage, env *driver.Env, size int64) (*Disk, error) {
	if err := l.checkEntries(size); err != nil {
		return nil, err
	}
	m := &Disk{file: file, env: env, hooks: hooks, l: l}
	m.size.Store(size)
	m.pend = clustertable.NewChanges(&m.mu)
	m.room.init(file.Traits())
	const what = "cached tables"
	if err := env.Budget.Table(what, tableBudget+dirBudget); err != nil {
		return nil, err
	}
	m.reserved = tableBudget + dirBudget
	m.makeCaches()
	return m, nil
}

// makeCaches makes the caches for the tables.
func (m *Disk) makeCaches() {
	l := &m.l
	c := clustertable.Config{Budget: tableBudget, SliceSize: l.sliceSize(0), End: l.tableEnd(), Lock: &m.mu, WriteLock: &m.flushMu, Writable: l.Writable}
	if l.Sequential {
		c.Budget = sequentialBudget
	}
	if d := l.Dir; d != nil {
		dc := c
		dc.Budget, dc.End = dirBudget, d.Off+d.Entries*int64(d.Width)
		m.dir = clustertable.NewCache(dc)
		c.SliceSize, c.End = l.sliceSize(d.TableBytes), 0
	}
	m.tab = clustertable.NewCache(c)
}

// checkEntries refuses a disk for which the tables have too few entries.
func (l *Layout) checkEntries(size int64) error {
	if units := roundUp(size, l.Unit) / l.Unit; units > l.units() {
		return driver.Errorf(driver.ErrCorrupt, "the disk has %d %ss, the table %d entries", units, l.Noun, l.units())
	} else if at := l.start(); units > 0 && at <= 0 {
		// Offset 0 stands for no table.
		return driver.Errorf(driver.ErrCorrupt, "the table of %ss is said to begin at offset %d, where no table can be", l.Noun, at)
	}
	return nil
}

// start returns where the flat table or the directory begins in the file.
func (l *Layout) start() int64 {
	if l.Dir != nil {
		return l.Dir.Off
	}
	return l.Table
}

// Release gives memory back that the budget counts. Close does that, too.
func (m *Disk) Release() {
	m.env.Budget.Release(m.reserved)
	m.reserved = 0
}

// Size returns the length of the disk.
func (m *Disk) Size() int64 { return m.size.Load() }

// Writable says whether the image was opened for writing.
func (m *Disk) Writable() bool { return m.l.Writable }

// Changed says whether anything was changed since the image was opened.
func (m *Disk) Changed() bool { return m.begun.Load() }

// Limits returns the limits of a node of the format.
func (m *Disk) Limits() driver.Limits {
	lim := driver.Limits{ClusterSize: m.l.Unit}
	if m.l.ZeroState {
		lim.ZeroAlignment = m.l.Unit
	}
	return lim
}

// piece is a run of the disk of one nature.
type piece struct {
	state State
	host  int64
	n     int64
	// partial: of a unit that has some sectors only.
	partial bool
}

// add extends p by q if q continues it.
func (p *piece) add(q piece) bool {
	switch {
	case p.n == 0:
		*p = q
		return true
	case p.state != q.state, q.state == Encoded, q.state == Bad, p.state == Data && (p.host+p.n != q.host || p.partial != q.partial):
		return false
	}
	p.n += q.n
	return true
}

// Map is that of driver.Format.
func (m *Disk) Map(ctx context.Context, off, n int64) (driver.Extent, error) {
	size := m.size.Load()
	if off >= size {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	n = min(n, size-off)
	p, err := m.run(ctx, off, n)
	if err != nil {
		return driver.Extent{}, err
	}
	x := driver.Extent{Length: min(p.n, n)}
	switch p.state {
	case Absent:
		x.Kind = driver.ExtentUnallocated
		if m.l.AbsentZero && !m.l.Backing {
			x.Kind = driver.ExtentZero
		}
	case Zero:
		x.Kind = driver.ExtentZero
	case Data:
		x.Kind, x.Child, x.HostOffset, x.HasOffset, x.Recurse = driver.ExtentData, m.file, p.host, true, m.l.Recurse
	case Encoded:
		x.Kind, x.Compressed = driver.ExtentEncoded, true
	}
	return x, nil
}

// run returns the run that begins at off, about as far as off+n. Damage is told of
// if it is where the run begins.
func (m *Disk) run(ctx context.Context, off, n int64) (piece, error) {
	var acc piece
	if m.hooks.Sectors != nil {
		n = min(n, m.l.Unit-off%m.l.Unit)
	}
	for acc.n < n {
		m.mu.RLock()
		need, done, err := m.runSome(&acc, off, n)
		m.mu.RUnlock()
		if err == nil && need.off != 0 {
			err = m.load(ctx, need)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			if acc.n > 0 && ctx.Err() == nil {
				break // who asks for what is behind it is told
			}
			return piece{}, err
		}
		if done {
			break
		}
	}
	if acc.partial {
		return m.sectorRun(ctx, acc, off, min(acc.n, n))
	}
	return acc, nil
}

// runSome extends acc from its end towards off+n until a slice is missing or
// another piece begins (done). mu is held.
func (m *Disk) runSome(acc *piece, off, n int64) (need need, done bool, err error) {
	unit := m.l.Unit
	for acc.n < n {
		pos := off + acc.n
		u := pos / unit
		at, need, err := m.place(u)
		if err != nil || need.off != 0 {
			return need, false, err
		}
		if at.slice == nil { // no table: all that it would map
			end := (u/m.l.perTable() + 1) * m.l.perTable() * unit
			if !acc.add(piece{state: Absent, n: end - pos}) {
				return need, true, nil
			}
			continue
		}
		in := pos % unit
		for b := at.slice.Data[at.in:]; len(b) > 0 && acc.n < n; b = b[min(at.step, len(b)):] {
			e := m.decode(b)
			if e.State == Bad {
				if acc.n > 0 {
					return need, true, nil
				}
				return need, true, m.badEntry(u, b)
			}
			if !acc.add(piece{state: e.State, host: e.Host + in, n: unit - in, partial: e.State == Data && e.Partial}) {
				return need, true, nil
			}
			in, u = 0, u+1
			if m.l.Index != nil {
				break
			}
		}
	}
	return need, true, nil
}

func (m *Disk) badEntry(u int64, b []byte) error {
	raw := word(m.l.Order, m.l.Width, b)
	return driver.Errorf(driver.ErrCorrupt, "the table entry of %s %d (%#x) refers to a place where no %s can be", m.l.Noun, u, raw, m.l.Noun)
}

// Entry returns the entry of a unit, for formats that decode.
func (m *Disk) Entry(ctx context.Context, u int64) (Entry, error) {
	for {
		m.mu.RLock()
		at, need, err := m.place(u)
		var e Entry
		if err == nil && at.slice != nil {
			e = m.decode(at.slice.Data[at.in:])
			if e.State == Bad {
				err = m.badEntry(u, at.slice.Data[at.in:])
			}
		}
		m.mu.RUnlock()
		if err != nil || need.off == 0 {
			return e, err
		}
		if err := m.load(ctx, need); err != nil {
			return Entry{}, err
		}
	}
}
