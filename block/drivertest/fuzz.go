package drivertest

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const (
	// fuzzTime is far more than an image of a few hundred KiB may take.
	fuzzTime = 20 * time.Second
	// maxSeed bounds seeds, in bytes: the engine keeps inputs as quoted text, which it parses
	// before each batch of runs; for a MiB that takes longer than the runs do.
	maxSeed = 64 << 10
)

// Fuzz opens, maps, reads, checks, repairs and writes images of any content, under a
// budget. They may fail in any way but these: a panic, an endless loop, memory without
// bound. The seed is an image of the harness with a bit of everything. Inputs are images
// without their zeroes, see unpack.
func Fuzz(f *testing.F, h Harness) {
	f.Helper()
	s := newSuite(h)
	seed := pack(f, s.disk(s.fuzzSeed(f)))
	if len(seed) > maxSeed {
		f.Fatalf("the seed has %d bytes", len(seed))
	}
	f.Add(seed, uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, choice uint64) {
		s := newSuite(h)
		ctx, cancel := context.WithTimeout(context.Background(), fuzzTime)
		defer cancel()
		s.mem.Add("damaged", unpack(t, b))
		s.useDamaged(ctx, t, testkit.Rand(choice))
		if ctx.Err() != nil {
			t.Fatalf("took longer than %v", fuzzTime)
		}
	})
}

// fuzzSeed makes an image of a few clusters that has what the format can store, in few
// bytes, and returns its name.
func (s *suite) fuzzSeed(f *testing.F) string {
	f.Helper()
	s.size = 512
	img := s.open(f, s.create(f, nil), false)
	cluster := max(img.Limits().ClusterSize, 4096)
	closeImage(f, img)
	s.size = 5*cluster + 3*512
	name := s.create(f, nil)
	img = s.open(f, name, true)
	ctx := context.Background()
	fail := func(what string, err error) {
		f.Helper()
		if err != nil && !unsupported(err) {
			f.Fatalf("%s: %v", what, err)
		}
	}
	p := make([]byte, 1000)
	testkit.Fill(testkit.Rand(1), p)
	for _, off := range []int64{3 * cluster, 0, cluster, 2 * cluster, img.Size() - int64(len(p))} {
		_, err := img.WriteAt(ctx, p, off)
		fail("write", err)
	}
	fail("zeroes", img.WriteZeroes(ctx, cluster, cluster, 0))
	fail("discard", img.Discard(ctx, 2*cluster, cluster))
	if img.CanCompress() {
		c := make([]byte, cluster)
		copy(c, p)
		enc, ok, err := img.Encode(nil, c)
		if err == nil && ok {
			err = img.WriteEncoded(ctx, 4*cluster, enc)
		}
		fail("compress", err)
	}
	closeImage(f, img)
	return name
}

const (
	pieceHeader = 4
	pieceUnit   = 512
)

// pack returns the contents of a disk in the form that unpack reads.
func pack(tb testing.TB, disk *mem.Disk) []byte {
	tb.Helper()
	var out []byte
	size := disk.Size()
	if size > 1<<16*pieceUnit {
		tb.Fatalf("an image of %d bytes", size)
	}
	p := make([]byte, pieceUnit)
	for off := int64(0); off < size; off += pieceUnit {
		b := p[:min(pieceUnit, size-off)]
		if _, err := disk.ReadAt(context.Background(), b, off); err != nil {
			tb.Fatal(err)
		}
		if off+int64(len(b)) < size { // the last piece says how long the disk is
			b = bytes.TrimRight(b, "\x00")
		}
		if len(b) > 0 {
			unit := off / pieceUnit
			out = append(out, byte(unit), byte(unit>>8), byte(len(b)), byte(len(b)>>8))
			out = append(out, b...)
		}
	}
	return out
}

// unpack makes a disk of pieces: the number of a sector and how many bytes follow, 16 bits each and
// little-endian, then the bytes. What no piece has is zeroes. The last piece may be cut short. Any
// input makes a disk, of 32 MiB and a piece at most.
func unpack(tb testing.TB, b []byte) *mem.Disk {
	tb.Helper()
	disk := mem.NewDisk(0)
	for len(b) > pieceHeader {
		off := (int64(b[0]) | int64(b[1])<<8) * pieceUnit
		n := int(b[2]) | int(b[3])<<8
		b = b[pieceHeader:]
		n = min(n, len(b))
		if _, err := disk.WriteAt(context.Background(), b[:n], off); err != nil {
			tb.Fatal(err)
		}
		b = b[n:]
	}
	return disk
}
