package nbd

import (
	"context"
	"errors"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// statusCache holds the last answer of the server about block status: it tells of
// more than one extent, and Map of one. Answers are used for a moment only, since
// others may write to the export.
type statusCache struct {
	off     int64
	extents []wire.Extent
	changes uint64
	at      time.Time
}

const statusAge = 100 * time.Millisecond

// maxStatus bounds what is asked for at once: servers look at all of it.
const maxStatus = 1 << 30

// Map implements driver.Storage.
func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	size := n.info.Size
	if off >= size {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	length = min(length, size-off)
	if !n.reports() {
		return driver.Extent{Kind: driver.ExtentData, Length: length, HasOffset: true, HostOffset: off}, nil
	}
	if x, ok := n.cachedExtent(off, length); ok {
		return x, nil
	}
	changes := n.changes.Load()
	// Servers with large blocks want whole ones.
	start := off &^ (n.unit - 1)
	end := min((off+min(length, maxStatus)+n.unit-1)&^(n.unit-1), size)
	var list []wire.Extent
	err := n.do(ctx, func(c *client.Conn) (err error) {
		list, err = c.BlockStatus(ctx, n.status, start, end-start, false)
		return err
	})
	var se *client.ServerError
	if errors.As(err, &se) && n.opt.DirtyBitmap == "" {
		// It is a hint: what the server does not know counts as data.
		return driver.Extent{Kind: driver.ExtentData, Length: length, HasOffset: true, HostOffset: off}, nil
	}
	if err != nil {
		return driver.Extent{}, requestError(err)
	}
	n.mu.Lock()
	n.extents = statusCache{off: start, extents: list, changes: changes, at: time.Now()}
	n.mu.Unlock()
	x, ok := n.cachedExtent(off, length)
	if !ok {
		// Changed meanwhile: what was true a moment ago may not be any more.
		return driver.Extent{Kind: driver.ExtentData, Length: length, HasOffset: true, HostOffset: off}, nil
	}
	return x, nil
}

// cachedExtent looks the extent at off up in the last answer.
func (n *node) cachedExtent(off, length int64) (driver.Extent, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &n.extents
	if s.extents == nil || s.changes != n.changes.Load() || time.Since(s.at) > statusAge || off < s.off {
		return driver.Extent{}, false
	}
	at := s.off
	for i, e := range s.extents {
		end := at + int64(e.Length)
		if off < end {
			x := n.extent(e.Flags)
			// Neighbours of one kind are one extent.
			for _, next := range s.extents[i+1:] {
				if n.extent(next.Flags) != x {
					break
				}
				end += int64(next.Length)
			}
			x.Length = min(end-off, length)
			if x.HasOffset {
				x.HostOffset = off
			}
			return x, true
		}
		at = end
	}
	return driver.Extent{}, false
}

// extent says what the flags of an extent mean. A bitmap in the place of block status
// is shown by the same bits, as QEMU does: what is dirty is a hole.
func (n *node) extent(flags uint64) driver.Extent {
	hole, zero := flags&wire.StateHole != 0, flags&wire.StateZero != 0
	if hole && zero {
		return driver.Extent{Kind: driver.ExtentZero, HasOffset: true}
	}
	return driver.Extent{Kind: driver.ExtentData, HasOffset: true, Hole: hole, Zero: zero}
}
