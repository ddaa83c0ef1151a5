package qcow2

import (
	"context"
	"errors"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/zero"
)

// A write is acknowledged when its data is in the file and its L2 entry is in
// memory. Whatever names it on disk later (the L2 entry, the L1 entry, its
// refcount, the refcount table entry) must not need room then: the file system
// may be full by that time. So new L2 tables and refcount blocks are written when
// they are made, before they are used; and tables of the image that lie in holes
// of the file are filled before the first change.

// errNoSpace is for files that cannot grow: devices.
func errNoSpace() error {
	return driver.Errorf(errors.Join(driver.ErrRange, syscall.ENOSPC), "No space left on device")
}

// holePage is the unit in which tables are searched for holes. File systems have
// no smaller ones, but for a few with blocks of 512 bytes to 2 KiB, which make a
// search in vain at most.
const holePage = 4096

// mayHaveHole says whether a part of p, read from offset off of a file, can be a
// hole there: one that reads as zeroes.
func mayHaveHole(p []byte, off int64) bool {
	for len(p) > 0 {
		n := min(int64(len(p)), holePage-off&(holePage-1))
		if zero.IsZero(p[:n]) {
			return true
		}
		p, off = p[n:], off+n
	}
	return false
}

// hasHole says whether a part of [off, end) of the file has no room on disk.
func (im *image) hasHole(ctx context.Context, off, end int64) (bool, error) {
	for off < end {
		x, err := im.file.Map(ctx, off, end-off)
		if err != nil {
			return false, err
		}
		if x.Kind != driver.ExtentData {
			return true, nil
		}
		off += x.Length
	}
	return false, nil
}

// fillHoles writes zeroes to the holes of [off, end) of the file. Nobody else
// writes there.
func (im *image) fillHoles(ctx context.Context, off, end int64) error {
	for off < end {
		x, err := im.file.Map(ctx, off, end-off)
		if err != nil {
			return err
		}
		n := x.Length
		switch x.Kind {
		case driver.ExtentEOF:
			n = end - off
			fallthrough
		case driver.ExtentZero, driver.ExtentUnallocated:
			if err := im.writeZeroes(ctx, off, n); err != nil {
				return err
			}
		}
		off += n
	}
	return nil
}

// coverTables gives the L1 table and the refcount table room on disk. hdrMu is
// held, nothing was changed yet.
func (im *image) coverTables(ctx context.Context) error {
	im.meta.RLock()
	l1Off, l1End := im.l1Off, im.l1Off+int64(len(im.l1))*8
	im.meta.RUnlock()
	if err := im.fillHoles(ctx, l1Off, l1End); err != nil {
		return err
	}
	a := &im.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	return im.fillHoles(ctx, a.tableOff, a.tableOff+int64(len(a.table))*8)
}

// coverSlice gives a slice that is clean room on disk. No lock is held.
func (im *image) coverSlice(ctx context.Context, s *slice) error {
	hole, err := im.hasHole(ctx, s.off, s.off+int64(len(s.data)))
	if err != nil {
		return err
	}
	if hole {
		// A writeback must not have newer contents under way.
		im.flushMu.Lock()
		defer im.flushMu.Unlock()
		im.meta.RLock()
		needed := s.unsure && im.cache.slices[s.off] == s
		im.meta.RUnlock()
		if !needed {
			return nil
		}
		if err := im.fillHoles(ctx, s.off, s.off+int64(len(s.data))); err != nil {
			return err
		}
	}
	im.meta.Lock()
	s.unsure = false
	im.meta.Unlock()
	return nil
}

// cover gives a refcount block that is clean room on disk. mu is held.
func (a *allocator) cover(ctx context.Context, b *refBlock) error {
	if !b.unsure {
		return nil
	}
	if err := a.im.fillHoles(ctx, b.off, b.off+int64(len(b.data))); err != nil {
		return err
	}
	b.unsure = false
	return nil
}

// writeNewTable puts zeroes, or what is given, at a cluster that nothing refers to
// yet, so that it has room on disk.
func (im *image) writeNewTable(ctx context.Context, off int64, content []byte) error {
	if content == nil {
		content = bufpool.Get(int(im.clusterSize))
		defer bufpool.Put(content)
		clear(content)
	}
	_, err := im.file.WriteAt(ctx, content, off)
	return err
}
