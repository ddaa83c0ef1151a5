package native

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/nbd/wire"
)

const (
	// statusAge is how long an answer about holes is used: others may write to the disk.
	statusAge = 100 * time.Millisecond
	// maxStatus bounds what is asked for at once, in bytes.
	maxStatus = 1 << 30
)

// statusCache holds the last answer about holes: it is about many extents, and Map is about one.
type statusCache struct {
	changes atomic.Uint64 // counts changes of the disk

	mu      sync.Mutex
	off     int64
	extents []wire.Extent
	as      uint64 // changes when the answer came
	at      time.Time
}

// Map implements driver.Storage. Where the engine does not tell of holes, everything is data.
func (d *Disk) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	if err := ctx.Err(); err != nil {
		return driver.Extent{}, err
	}
	d.sizeMu.RLock()
	defer d.sizeMu.RUnlock()
	size := d.Size()
	if off >= size || length <= 0 {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	length = min(length, size-off)
	all := driver.Extent{Kind: driver.ExtentData, Length: length, HasOffset: true, HostOffset: off}
	if !d.facts.Holes {
		d.sawData(off + length)
		return all, nil
	}
	n, data, ok := d.status.look(off)
	if !ok {
		var list []wire.Extent
		changes := d.status.changes.Load()
		// What is behind the range is asked for, too: it will be asked for next.
		err := d.request(ctx, "asking for the holes", func(ctx context.Context) (err error) {
			list, err = d.c.BlockStatus(ctx, wire.ContextAllocation, off, min(size-off, maxStatus), false)
			return err
		})
		if err != nil {
			return driver.Extent{}, err
		}
		if n, data, ok = d.status.keep(off, list, changes); !ok {
			return all, nil // changed meanwhile: to call it data is never wrong
		}
	}
	x := driver.Extent{Kind: driver.ExtentZero, Length: min(n, length), HasOffset: true, HostOffset: off}
	if data {
		x.Kind = driver.ExtentData
		d.sawData(off + x.Length)
	}
	return x, nil
}

// sawData notes that there is data up to an offset: it is worth reading ahead.
func (d *Disk) sawData(end int64) {
	if d.ahead != nil {
		d.ahead.Until(end)
	}
}

// keep keeps an answer and looks off up in it.
func (s *statusCache) keep(off int64, list []wire.Extent, changes uint64) (n int64, data, ok bool) {
	s.mu.Lock()
	s.off, s.extents, s.as, s.at = off, list, changes, time.Now()
	s.mu.Unlock()
	return s.look(off)
}

// look looks the bytes from off on up in the last answer.
func (s *statusCache) look(off int64) (n int64, data, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.as != s.changes.Load() || off < s.off || time.Since(s.at) > statusAge {
		return 0, false, false
	}
	at := s.off
	for _, e := range s.extents {
		end := at + int64(e.Length)
		isData := e.Flags&wire.StateZero == 0
		switch {
		case ok && isData != data:
			return n, data, true
		case ok:
			n += int64(e.Length) // neighbours of one kind are one extent
		case off < end:
			n, data, ok = end-off, isData, true
		}
		at = end
	}
	return n, data, ok
}
