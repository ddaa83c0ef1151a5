package file

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
)

// holeCache keeps the last answer of the file system about holes. Changes make
// it void: an answer counts only while no change has ended since the question
// was asked.
type holeCache struct {
	changes atomic.Uint64
	last    atomic.Pointer[segment]
}

// segment is a range that is all data or all hole.
type segment struct {
	off, end int64
	data     bool
	changes  uint64
}

// forget is called after every change of the file, before it is reported done.
func (c *holeCache) forget() { c.changes.Add(1) }

func (c *holeCache) find(off int64) *segment {
	s := c.last.Load()
	if s != nil && s.changes == c.changes.Load() && s.off <= off && off < s.end {
		return s
	}
	return nil
}

// Map implements driver.Storage. Holes are what the file system reports as
// such; where it cannot, everything is data.
func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	if err := n.check(ctx, off, 0); err != nil {
		return driver.Extent{}, err
	}
	size := n.Size()
	if off >= size || length <= 0 {
		return driver.Extent{}, nil
	}
	s := n.holes.find(off)
	if s == nil {
		s = n.seek(off, size)
		n.holes.last.Store(s)
	}
	e := driver.Extent{Length: min(s.end-off, length, size-off), Kind: driver.ExtentZero, HostOffset: off, HasOffset: true}
	if s.data {
		e.Kind = driver.ExtentData
	}
	return e, nil
}

// seek asks the file system what is at off and how far it goes.
func (n *node) seek(off, size int64) *segment {
	s := &segment{off: off, end: size, data: true, changes: n.holes.changes.Load()}
	if n.device || seekData < 0 || n.features.noSeek.Load() {
		return s
	}
	data, err := n.f.Seek(off, seekData)
	switch {
	case errors.Is(err, syscall.ENXIO): // no data behind off
		// Where the file has become shorter there is no hole: reading has to fail.
		if now, err := fileSize(n.f, false); err == nil {
			s.end = min(size, now)
		}
		s.data = false
		if s.end <= off {
			s.end, s.data = size, true
		}
		return s
	case err != nil:
		n.features.noSeek.Store(true)
		return s
	case data > off:
		s.end, s.data = data, false
		return s
	}
	// A hole at off now would mean that a hole was punched meanwhile: call it data,
	// which is never wrong.
	if hole, err := n.f.Seek(off, seekHole); err == nil && hole > off {
		s.end = hole
	}
	return s
}
