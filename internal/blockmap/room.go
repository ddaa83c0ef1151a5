package blockmap

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
)

// room hands out places in the file: behind all that is in use, or where units were
// given up.
type room struct {
	mu         sync.Mutex
	known      bool               // next and fresh are
	twice      bool               // entries named a place that another one has, too; with Reuse
	next       int64              // all that is used lies before it
	floor      int64              // no unit may begin before it, whatever the layout says; see Vacate
	fresh      int64              // nothing was ever written from here on
	free       []int64            // hosts of units that can be used again, ascending
	ready      []int64            // the same, once the file was told of it
	waiting    map[int64]struct{} // no entry names them, but readers may be left
	taken      bool               // room was handed out that the format has not counted yet
	fixed      bool               // the file cannot grow
	zeroOnGrow bool
}

func (r *room) init(t driver.Traits) {
	r.fixed, r.zeroOnGrow = t.FixedSize, t.ZeroOnGrow && !t.FixedSize
}

// needRoom finds out where the file has room, if that is not known. All tables are
// read for it. The length of the file would not do: in an image that was cut off,
// entries name places behind its end.
func (m *Disk) needRoom(ctx context.Context) error {
	m.room.mu.Lock()
	known := m.room.known
	m.room.mu.Unlock()
	if known {
		return nil
	}
	m.flushMu.Lock()
	defer m.flushMu.Unlock()
	m.room.mu.Lock()
	known = m.room.known
	m.room.mu.Unlock()
	if known {
		return nil
	}
	// Nothing was allocated yet: the file has all entries that name a place.
	end, holes, twice, err := m.usedEnd(ctx)
	if err != nil {
		return err
	}
	// What was given up is handed out once it can be: see applyReady.
	m.mu.RLock()
	drops := slices.Clone(m.drops)
	m.mu.RUnlock()
	r := &m.room
	r.mu.Lock()
	defer r.mu.Unlock()
	given := maps.Clone(r.waiting)
	if given == nil {
		given = map[int64]struct{}{}
	}
	for _, list := range [][]int64{r.ready, drops} {
		for _, host := range list {
			given[host] = struct{}{}
		}
	}
	for host := range given { // what is given up last can lie behind all that is in use
		end = max(end, host+m.l.Unit)
	}
	r.free = slices.DeleteFunc(holes, func(host int64) bool { _, ok := given[host]; return ok })
	r.next, r.fresh, r.known, r.twice = end, max(end, m.file.Size()), true, twice
	return nil
}

// Overlaps says whether entries name a place that another one has, too, so that a write to one unit
// would show in another one. All tables are read for it, once: what it finds out about free room is
// kept for the first allocation, unless there is something to repair. For layouts with Reuse, before
// the first change.
func (m *Disk) Overlaps(ctx context.Context) (bool, error) {
	if err := m.needRoom(ctx); err != nil {
		return false, err
	}
	m.room.mu.Lock()
	defer m.room.mu.Unlock()
	m.room.known = !m.room.twice
	return m.room.twice, nil
}

// usedEnd returns where the last unit or table in use ends and, with Reuse, which
// places before that are free and whether one is named twice.
func (m *Disk) usedEnd(ctx context.Context) (end int64, holes []int64, twice bool, err error) {
	l := &m.l
	end = l.reservedEnd()
	if l.AtEnd {
		end = max(end, m.file.Size())
	}
	var used places
	if l.Reuse {
		if used, err = m.newPlaces(); err != nil {
			return 0, nil, false, err
		}
		defer used.release()
		for _, r := range l.Reserved {
			used.take(r.Offset, r.Length)
		}
	}
	err = m.scan(ctx, func(off int64) bool {
		end = max(end, off+l.Dir.TableBytes)
		used.take(off, l.Dir.TableBytes)
		return true
	}, func(_ int64, e Entry) error {
		switch e.State {
		case Data:
			end = max(end, e.Host+l.Unit)
			_, again := used.take(e.Host, l.Unit)
			twice = twice || again
		case Encoded:
			end = max(end, e.Host+e.Length)
		}
		return nil
	})
	if err == nil {
		err = used.err
	}
	if l.Reuse {
		holes = used.holes(end, l.Unit)
	}
	return end, holes, twice, err
}

// End returns where what is in use ends, 0 if that is not known: nothing was allocated.
func (m *Disk) End() int64 {
	m.room.mu.Lock()
	defer m.room.mu.Unlock()
	if !m.room.known {
		return 0
	}
	return m.room.next
}

// claim finds room for up to n units in a row. fresh says that it reads as zeroes.
func (m *Disk) claim(n int64) (host, got int64, fresh bool, err error) {
	r, l := &m.room, &m.l
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.free) > 0 {
		for got = 1; got < min(n, int64(len(r.free))) && r.free[got] == r.free[got-1]+l.Unit; got++ {
		}
		host = r.free[0]
		r.free = append(r.free[:0], r.free[got:]...)
		return host, got, false, nil
	}
	host = l.First + roundUp(max(r.next+l.Prefix-l.First, 0), l.Align)
	if r.fixed {
		n = min(n, (m.file.Size()-host)/l.Unit)
	}
	if l.Limit > 0 {
		n = min(n, (l.Limit-host+l.Unit-1)/l.Unit)
	}
	if n <= 0 || host > maxOffset {
		return 0, 0, false, noSpace()
	}
	fresh = r.zeroOnGrow && host-l.Prefix >= r.fresh
	r.next = host + n*l.Unit
	r.fresh = max(r.fresh, r.next)
	r.taken = true
	return host, n, fresh, nil
}

// claimBytes finds room for n bytes at a multiple of align, behind all that is
// there. fresh is that of claim.
func (m *Disk) claimBytes(n, align int64) (off int64, fresh bool, err error) {
	r := &m.room
	r.mu.Lock()
	defer r.mu.Unlock()
	off = roundUp(max(r.next, m.l.First), align)
	if r.fixed && off+n > m.file.Size() || off > maxOffset {
		return 0, false, noSpace()
	}
	fresh = r.zeroOnGrow && off >= r.fresh
	r.next = off + n
	r.fresh = max(r.fresh, r.next)
	r.taken = true
	return off, fresh, nil
}

func noSpace() error {
	return driver.Errorf(errors.Join(driver.ErrRange, syscall.ENOSPC), "no space left on device")
}

// giveBack takes room back that no entry named, n units from host on.
func (m *Disk) giveBack(host, n int64) {
	if n <= 0 {
		return
	}
	r := &m.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if end := host + n*m.l.Unit; end == r.next {
		r.next = host - m.l.Prefix
		return
	}
	for i := range n {
		r.free = append(r.free, host+i*m.l.Unit)
	}
	slices.Sort(r.free)
}

// giveBackBytes takes the room of n bytes at off back, if it was handed out last.
func (m *Disk) giveBackBytes(off, n int64) {
	m.room.mu.Lock()
	defer m.room.mu.Unlock()
	if off+n == m.room.next {
		m.room.next = off
	}
}

// whenUnused hands units over for being used again once nobody reads them.
func (m *Disk) whenUnused(hosts []int64) {
	if len(hosts) == 0 {
		return
	}
	r := &m.room
	r.mu.Lock()
	if r.waiting == nil {
		r.waiting = map[int64]struct{}{}
	}
	for _, host := range hosts {
		r.waiting[host] = struct{}{}
	}
	r.mu.Unlock()
	m.env.Guard.Defer(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, host := range hosts {
			delete(r.waiting, host)
		}
		r.ready = append(r.ready, hosts...)
	})
}

// dropBelowFloor forgets free units that must not be used again. mu is held.
func (r *room) dropBelowFloor() {
	r.free = slices.DeleteFunc(r.free, func(h int64) bool { return h < r.floor })
}

// applyReady frees units that nobody uses any more: their room on disk goes back to
// the file, and they can be used again. flushMu is held.
func (m *Disk) applyReady(ctx context.Context) {
	r := &m.room
	r.mu.Lock()
	ready := r.ready
	r.ready = nil
	r.mu.Unlock()
	if len(ready) == 0 {
		return
	}
	slices.Sort(ready)
	if d, ok := m.file.(driver.Discarder); ok {
		for _, host := range ready {
			// A courtesy: errors do not matter.
			_ = d.Discard(ctx, host, min(m.l.Unit, max(0, m.file.Size()-host)))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = append(r.free, ready...)
	r.dropBelowFloor()
	slices.Sort(r.free)
	for n := len(r.free); n > 0 && r.free[n-1]+m.l.Unit == r.next; n-- {
		r.next, r.free = r.free[n-1], r.free[:n-1]
	}
}
