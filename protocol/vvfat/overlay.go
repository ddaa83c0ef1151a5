package vvfat

import (
	"context"
	"io"
	"math/bits"
	"os"
	"runtime"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/tmpfile"
)

// overlay holds what the guest has written, in a temporary file at the offsets of the disk. It
// takes the room that was written to, which is that of the disk at most.
type overlay struct {
	f       *tmpfile.File
	written sectorSet // what is in the file
	dirty   sectorSet // what the folder does not have yet
}

// temporaryDir is where temporary files of any size go: /var/tmp, as with QEMU, or what
// TMPDIR says.
func temporaryDir() string {
	if os.Getenv("TMPDIR") == "" && runtime.GOOS != "windows" {
		if info, err := os.Stat("/var/tmp"); err == nil && info.IsDir() {
			return "/var/tmp"
		}
	}
	return os.TempDir()
}

func newOverlay() (*overlay, error) {
	f, err := tmpfile.Anonymous(temporaryDir(), "cowl-vvfat-")
	if err != nil {
		return nil, err
	}
	return &overlay{f: f, written: sectorSet{}, dirty: sectorSet{}}, nil
}

func (v *overlay) close() error { return v.f.Discard() }

// at says whether a byte was written, and how many from it on, up to n, are the same in that.
func (v *overlay) at(off, n int64) (written bool, count int64) {
	first, last := off/sector, (off+n+sector-1)/sector
	written, sectors := v.written.run(first, last-first)
	return written, min(n, (first+sectors)*sector-off)
}

// read fills b with what was written.
func (v *overlay) read(b []byte, off int64) error {
	clear(b) // the file may end before what was zeroed
	if _, err := v.f.ReadAt(b, off); err != nil && err != io.EOF {
		return driver.Errorf(err, "could not read what was written to the disk: %w", err)
	}
	return nil
}

// write takes whole sectors.
func (v *overlay) write(b []byte, off int64) error {
	if _, err := v.f.WriteAt(b, off); err != nil {
		return err
	}
	v.mark(off, int64(len(b)))
	return nil
}

// writeZeroes makes whole sectors zero. What is not in the file is zero there.
func (v *overlay) writeZeroes(ctx context.Context, off, n int64) error {
	zeroes := make([]byte, min(n, 256<<10))
	for end := off + n; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		written, count := v.at(off, min(end-off, int64(len(zeroes))))
		if written {
			if err := v.write(zeroes[:count], off); err != nil {
				return err
			}
		}
		v.mark(off, count)
		off += count
	}
	return nil
}

func (v *overlay) mark(off, n int64) {
	v.written.add(off/sector, n/sector)
	v.dirty.add(off/sector, n/sector)
}

// sectorSet is a set of sectors, 64 in a word.
type sectorSet map[int64]uint64

func (s sectorSet) add(first, n int64) {
	for n > 0 {
		bit := first & 63
		some := min(n, 64-bit)
		s[first>>6] |= (1<<some - 1) << bit
		first, n = first+some, n-some
	}
}

// run says whether the first of n sectors is in the set, and how many after it are like it.
func (s sectorSet) run(first, n int64) (in bool, count int64) {
	in = s[first>>6]>>(first&63)&1 != 0
	for count < n {
		word, bit := s[(first+count)>>6], (first+count)&63
		if in {
			word = ^word
		}
		// The first bit that differs.
		same := int64(bits.TrailingZeros64(word >> bit))
		count += min(same, 64-bit)
		if same < 64-bit {
			break
		}
	}
	return in, min(count, n)
}

// any says whether one of n sectors is in the set.
func (s sectorSet) any(first, n int64) bool {
	in, count := s.run(first, n)
	return in || count < n
}
