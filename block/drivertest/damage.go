package drivertest

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const (
	damageRuns = 200
	// damageTime is far more than any of these small images may take.
	damageTime = 20 * time.Second
	// damageMemory is what one of them may allocate in all, reading included.
	damageMemory = 512 << 20
)

// testDamaged uses images with bytes changed or the end cut off. They may fail
// in any way but these: a panic, an endless loop, memory without bound.
func testDamaged(t *testing.T, s *suite) {
	if !s.isFormat() {
		t.Skip("protocols have no metadata to damage")
	}
	name := s.create(t, nil)
	img := s.open(t, name, true)
	m := testkit.NewModel(img.Size())
	r := testkit.Rand(1)
	for i := range 40 {
		s.randomStep(t, img, m, r, i)
	}
	closeImage(t, img)
	s.damaged(t, s.disk(name))
}

// damaged uses copies of a whole image that are damaged in many ways.
func (s *suite) damaged(t *testing.T, whole *mem.Disk) {
	runs := damageRuns
	if s.light() {
		runs = 30
	}
	if testkit.Race {
		runs = 8
	}
	for seed := range uint64(runs) {
		disk := whole.Clone()
		r := testkit.Rand(seed)
		damage(t, disk, r)
		s.mem.Add("damaged", disk)
		ctx, cancel := context.WithTimeout(context.Background(), damageTime)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s.useDamaged(ctx, t, r)
		runtime.ReadMemStats(&after)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Fatalf("seed %d: took longer than %v", seed, damageTime)
		}
		cancel()
		if got := after.TotalAlloc - before.TotalAlloc; got > damageMemory {
			t.Fatalf("seed %d: allocated %d bytes", seed, got)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// damage changes a few bytes, most often near the start where headers and
// tables are, or cuts the end off.
func damage(t *testing.T, disk *mem.Disk, r *rand.Rand) {
	t.Helper()
	ctx := context.Background()
	for range 1 + r.IntN(4) {
		limit := disk.Size()
		switch r.IntN(4) {
		case 0:
			limit = min(limit, 512)
		case 1, 2:
			limit = min(limit, 512<<10)
		}
		if limit == 0 {
			return
		}
		off := r.Int64N(limit)
		var p []byte
		switch r.IntN(5) {
		case 0:
			p = []byte{byte(r.Uint32())}
		case 1:
			p = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
			off = off / 8 * 8
		case 2:
			p = make([]byte, 8)
			off = off / 8 * 8
		case 3:
			p = make([]byte, 1+r.IntN(64))
			testkit.Fill(r, p)
		default:
			if err := disk.Resize(ctx, off, driver.ResizeOptions{}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if _, err := disk.WriteAt(ctx, p, off); err != nil {
			t.Fatal(err)
		}
	}
}

// useDamaged does everything to the damaged disk, and expects nothing.
func (s *suite) useDamaged(ctx context.Context, t *testing.T, r *rand.Rand) {
	write := r.IntN(2) == 0
	budget := &driver.Budget{MaxTableBytes: 16 << 20, MaxMemory: 64 << 20}
	img, err := s.tryOpen(ctx, "mem:damaged", block.OpenOptions{Write: write, Unmap: true, Use: block.Use{Check: r.IntN(3) == 0}, Budget: budget})
	if err != nil {
		return
	}
	defer img.Close(ctx)
	_, _ = img.Info(ctx)
	size := img.Size()
	p := make([]byte, 1<<20)
	for _, off := range []int64{0, 1 << 20, 2 << 20, size/2 - 1000, size - 1<<20} {
		if off >= 0 && off < size {
			_, _ = img.ReadAt(ctx, p, off)
		}
	}
	for off, i := int64(0), 0; off < size && i < 1000; i++ {
		st, err := img.Status(ctx, off, size-off, nil)
		if err != nil {
			break
		}
		if st.Length <= 0 || st.Length > size-off {
			t.Errorf("status at %d of %d: %+v", off, size, st)
			break
		}
		off += st.Length
	}
	if c, ok := img.Tree().Node().(driver.Checker); ok && r.IntN(2) == 0 {
		fix := driver.CheckFix{Leaks: write, Errors: write}
		_, _ = c.Check(ctx, fix, func(string) {}, nil)
	}
	if !write {
		return
	}
	for range 5 {
		off, n := pick(r, max(size, 1), img.Limits().ClusterSize)
		_, _ = img.WriteAt(ctx, p[:min(n, int64(len(p)))], off)
		_ = img.WriteZeroes(ctx, off, n, driver.ZeroMayUnmap)
		_ = img.Discard(ctx, off, n)
	}
	_ = img.Flush(ctx)
}
