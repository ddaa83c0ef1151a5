package iscsi

import (
	"context"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/iscsi"
)

// statusCache holds the last answer of the target about its blocks: it tells of many
// ranges, and Map of one. Answers are used for a moment only, since others may write.
type statusCache struct {
	mu      sync.Mutex
	changes uint64 // counts changes, so that old answers are dropped
	list    []iscsi.BlockStatus
	at      time.Time
}

const statusAge = 100 * time.Millisecond

func (s *statusCache) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	s.list = nil
}

func (s *statusCache) count() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// put keeps an answer that was asked for after so many changes.
func (s *statusCache) put(list []iscsi.BlockStatus, of uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes == of {
		s.list, s.at = list, time.Now()
	}
}

// find returns how many blocks from lba on are mapped, or are not.
func (s *statusCache) find(lba uint64) (blocks uint64, mapped, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.at) > statusAge {
		return 0, false, false
	}
	for i, r := range s.list {
		end := r.LBA + uint64(r.Blocks)
		if lba < r.LBA || lba >= end {
			continue
		}
		mapped = r.Status == iscsi.BlockMapped
		for _, next := range s.list[i+1:] { // neighbours of one kind are one range
			if (next.Status == iscsi.BlockMapped) != mapped {
				break
			}
			end = next.LBA + uint64(next.Blocks)
		}
		return end - lba, mapped, true
	}
	return 0, false, false
}

// Map implements driver.Storage.
func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	size := n.Size()
	if off >= size {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	length = min(length, size-off)
	data := driver.Extent{Kind: driver.ExtentData, Length: length, HasOffset: true, HostOffset: off}
	if !n.capacity.Thin || n.noStatus.Load() {
		n.sawData(size)
		return data, nil
	}
	block := n.block()
	lba := uint64(off / block)
	blocks, mapped, ok := n.status.find(lba)
	if !ok {
		changes := n.status.count()
		list, err := n.lun.Status(ctx, lba)
		switch {
		case ctx.Err() != nil:
			return driver.Extent{}, ctx.Err()
		case err != nil:
			// It is a hint: what the target does not know counts as data.
			if iscsi.IsUnsupported(err) {
				n.noStatus.Store(true)
			}
			return data, nil
		}
		n.status.put(list, changes)
		blocks, mapped = uint64(list[0].Blocks), list[0].Status == iscsi.BlockMapped
		if more, same, ok := n.status.find(lba); ok {
			blocks, mapped = more, same
		}
	}
	blocks = min(blocks, n.capacity.Blocks-lba)
	x := data
	x.Length = min(length, int64(blocks)*block-off%block)
	switch {
	case mapped:
		n.sawData(off + x.Length)
	case n.capacity.ReadsZero:
		x.Kind = driver.ExtentZero
	default:
		x.Hole = true
	}
	return x, nil
}
