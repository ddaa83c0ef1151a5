package clustertable

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/zero"
)

// holePage is the unit in which slices are searched for holes. File systems have
// no smaller ones, but for a few with blocks of 512 bytes to 2 KiB, which make a
// search in vain at most.
const holePage = 4096

// maxZeroes bounds the buffer of WriteZeroes, in bytes.
const maxZeroes = 1 << 20

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
func hasHole(ctx context.Context, f driver.Storage, off, end int64) (bool, error) {
	for off < end {
		x, err := f.Map(ctx, off, end-off)
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

// FillHoles writes zeroes to the holes of [off, end) of a file, so that writing
// there needs no more room on disk. Nobody else writes there meanwhile.
func FillHoles(ctx context.Context, f driver.Storage, off, end int64) error {
	for off < end {
		x, err := f.Map(ctx, off, end-off)
		if err != nil {
			return err
		}
		n := x.Length
		switch x.Kind {
		case driver.ExtentEOF:
			n = end - off
			fallthrough
		case driver.ExtentZero, driver.ExtentUnallocated:
			if err := WriteZeroes(ctx, f, off, n); err != nil {
				return err
			}
		}
		off += n
	}
	return nil
}

// WriteZeroes writes n zero bytes at off of a file, as data.
func WriteZeroes(ctx context.Context, f driver.Storage, off, n int64) error {
	buf := make([]byte, min(n, maxZeroes))
	for end := off + n; off < end; off += int64(len(buf)) {
		if _, err := f.WriteAt(ctx, buf[:min(int64(len(buf)), end-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// cover gives a slice that may lie in a hole room on disk. It takes the lock of the
// cache and WriteLock.
func (k *Cache) cover(ctx context.Context, f driver.Storage, s *Slice) error {
	hole, err := hasHole(ctx, f, s.Off, s.Off+int64(len(s.Data)))
	if err != nil {
		return err
	}
	if hole {
		// A write-back must not have newer contents under way.
		k.c.WriteLock.Lock()
		defer k.c.WriteLock.Unlock()
		k.c.Lock.RLock()
		needed := s.unsure && k.slices[s.Off] == s
		k.c.Lock.RUnlock()
		if !needed {
			return nil
		}
		if err := FillHoles(ctx, f, s.Off, s.Off+int64(len(s.Data))); err != nil {
			return err
		}
	}
	k.c.Lock.Lock()
	s.unsure = false
	k.c.Lock.Unlock()
	return nil
}

// CoverFetched gives a slice that Fetch returned room on disk, as Edit does. The
// lock is held exclusively, across the I/O. The slice is clean.
func (k *Cache) CoverFetched(ctx context.Context, f driver.Storage, s *Slice) error {
	if !s.unsure {
		return nil
	}
	if err := FillHoles(ctx, f, s.Off, s.Off+int64(len(s.Data))); err != nil {
		return err
	}
	s.unsure = false
	return nil
}
