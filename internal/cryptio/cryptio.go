// Package cryptio puts a sector cipher over Storage.
package cryptio

import (
	"context"
	"io"
	"runtime"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/crypto/sector"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/rangelock"
)

const (
	// maxChunk is how much is encrypted into a buffer before it is written.
	maxChunk = 2 << 20
	// minShare is the least that is worth another processor.
	minShare = 128 << 10
)

// Storage wraps a child whose bytes are encrypted: it decrypts what it reads
// and encrypts what it writes. It does not reveal its child (no Unwrap) nor
// copy ranges: the bytes must not bypass it.
//
// Reads and writes may begin and end anywhere. A write of a part of a sector reads
// the sector, changes it and writes it whole; while it does, other requests for
// that sector wait. What is beyond the end of the child counts as encrypted
// zeroes, so ReadAt never ends short. Close does not close the child.
type Storage struct {
	*shared
	delta int64
}

type shared struct {
	child  driver.Storage
	cipher *sector.Cipher
	size   int64 // of a sector
	locks  rangelock.Locker
}

// New returns Storage over child. The byte at offset o of it, and of child, is
// in sector (o+delta)/512 as the cipher numbers them; sectors begin where o+delta
// is a multiple of their size, the first one at 0 or behind. Neither child nor c
// is owned.
func New(child driver.Storage, c *sector.Cipher, delta int64) *Storage {
	return &Storage{&shared{child: child, cipher: c, size: int64(c.SectorSize())}, delta}
}

// Shift returns Storage over the same child that numbers sectors otherwise. Its
// requests and those of s wait for each other as those of one Storage do. delta
// must differ from that of s by a multiple of the sector size.
func (s *Storage) Shift(delta int64) *Storage { return &Storage{s.shared, delta} }

// Size is that of the child.
func (s *Storage) Size() int64 { return s.child.Size() }

// Limits are those of the child.
func (s *Storage) Limits() driver.Limits { return s.child.Limits() }

// Traits are those of the child, except that nothing reads as zeroes by itself.
func (s *Storage) Traits() driver.Traits {
	t := s.child.Traits()
	t.ZeroInit, t.ZeroOnGrow = false, false
	return t
}

// Flush flushes the child.
func (s *Storage) Flush(ctx context.Context) error { return s.child.Flush(ctx) }

// Close does nothing: the opener of the child closes it.
func (s *Storage) Close(context.Context) error { return nil }

// Map says data wherever the child has bytes: a hole is encrypted zeroes, which
// are not zeroes.
func (s *Storage) Map(_ context.Context, off, n int64) (driver.Extent, error) {
	size := s.child.Size()
	if off >= size {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	return driver.Extent{Kind: driver.ExtentData, Length: min(n, size-off)}, nil
}

// in returns how far into its sector the byte at off is.
func (s *Storage) in(off int64) int64 { return (off + s.delta) & (s.size - 1) }

func (s *Storage) number(off int64) uint64 { return uint64(off+s.delta) / sector.Unit }

// ReadAt fills p with the decrypted bytes at off.
func (s *Storage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	start, end := s.around(off, int64(len(p)))
	held, err := s.locks.Lock(ctx, start, end-start, rangelock.Shared)
	if err != nil {
		return 0, err
	}
	defer held.Unlock()
	done := 0
	for done < len(p) {
		// Whole sectors go straight into p, the others through a buffer.
		pos, rest := off+int64(done), p[done:]
		if whole := int64(len(rest)) &^ (s.size - 1); s.in(pos) == 0 && whole > 0 {
			if err := s.readSectors(ctx, rest[:whole], pos); err != nil {
				return done, err
			}
			done += int(whole)
			continue
		}
		n, err := s.readPart(ctx, rest, pos)
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// around widens n bytes at off to whole sectors.
func (s *Storage) around(off, n int64) (start, end int64) {
	start, end = off-s.in(off), off+n
	if r := s.in(end); r != 0 {
		end += s.size - r
	}
	return start, end
}

// readPart reads from the sector at off as much as p takes of it.
func (s *Storage) readPart(ctx context.Context, p []byte, off int64) (int, error) {
	buf := bufpool.Get(int(s.size))
	defer bufpool.Put(buf)
	in := s.in(off)
	if err := s.readSectors(ctx, buf, off-in); err != nil {
		return 0, err
	}
	return copy(p, buf[in:]), nil
}

// readSectors fills p, whole sectors, from off.
func (s *Storage) readSectors(ctx context.Context, p []byte, off int64) error {
	n, err := s.child.ReadAt(ctx, p, off)
	if err != nil && err != io.EOF {
		return err
	}
	clear(p[n:])
	s.parallel(p, p, s.number(off), s.cipher.Decrypt)
	return nil
}

// WriteAt encrypts p and writes it at off.
func (s *Storage) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	start, end := s.around(off, int64(len(p)))
	mode := rangelock.Shared
	if start != off || end != off+int64(len(p)) {
		mode = rangelock.Exclusive
	}
	held, err := s.locks.Lock(ctx, start, end-start, mode)
	if err != nil {
		return 0, err
	}
	defer held.Unlock()
	buf := bufpool.Get(int(min(end-start, maxChunk)))
	defer bufpool.Put(buf)
	for done := 0; done < len(p); {
		n, err := s.writeChunk(ctx, buf, p[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// writeChunk writes as much of p as fits, in whole sectors, into buf.
func (s *Storage) writeChunk(ctx context.Context, buf, p []byte, off int64) (int, error) {
	head := s.in(off)
	n := int(min(int64(len(p)), int64(len(buf))-head))
	whole := buf[:(head+int64(n)+s.size-1)&^(s.size-1)]
	start := off - head
	last := int64(len(whole)) - s.size
	if head != 0 {
		if err := s.readSectors(ctx, whole[:s.size], start); err != nil {
			return 0, err
		}
	}
	if head+int64(n) < int64(len(whole)) && (last != 0 || head == 0) {
		if err := s.readSectors(ctx, whole[last:], start+last); err != nil {
			return 0, err
		}
	}
	if head == 0 && n == len(whole) {
		s.parallel(whole, p[:n], s.number(start), s.cipher.Encrypt)
	} else {
		copy(whole[head:], p[:n])
		s.parallel(whole, whole, s.number(start), s.cipher.Encrypt)
	}
	if _, err := s.child.WriteAt(ctx, whole, start); err != nil {
		return 0, err
	}
	return n, nil
}

// parallel runs fn on the sectors of src, on as many processors as pay.
func (s *Storage) parallel(dst, src []byte, number uint64, fn func(dst, src []byte, sector uint64)) {
	shares := min(runtime.GOMAXPROCS(0), len(src)/minShare)
	if shares < 2 {
		fn(dst, src, number)
		return
	}
	share := (len(src)/shares + int(s.size) - 1) &^ (int(s.size) - 1)
	var wg sync.WaitGroup
	for i := share; i < len(src); i += share {
		end := min(i+share, len(src))
		wg.Go(func() { fn(dst[i:end], src[i:end], number+uint64(i/sector.Unit)) })
	}
	fn(dst[:share], src[:share], number)
	wg.Wait()
}

var _ driver.Storage = (*Storage)(nil)
