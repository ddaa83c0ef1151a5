package refcounts

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const (
	testBits    = 9 // clusters of 512 bytes
	testCluster = 1 << testBits
	testTable   = 100 << testBits // place of the table
)

type testHost struct{ disk *mem.Disk }

func (h testHost) File() driver.Storage { return h.disk }
func (h testHost) Event(string)         {}

func (h testHost) Corruption(_ context.Context, format string, args ...any) error {
	return driver.Errorf(driver.ErrCorrupt, format, args...)
}

// newCounts returns refcounts of 1<<order bits with a table of so many entries and
// no block. Two blocks are kept in memory.
func newCounts(order uint32, regions int) (*Counts, *mem.Disk) {
	disk := mem.NewDisk(200 << testBits)
	r := New(Config{Host: testHost{disk}, ClusterBits: testBits, Budget: 2 * testCluster, Writable: true})
	r.Load(make([]uint64, regions), testTable, order)
	return r, disk
}

func flush(t *testing.T, r *Counts) {
	t.Helper()
	if err := r.WriteBlocks(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.WriteTable(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestModel makes random changes and compares all answers with a plain array, also
// after everything was written and read again.
func TestModel(t *testing.T) {
	ctx := context.Background()
	for order := range uint32(7) {
		t.Run(fmt.Sprintf("%d bits", 1<<order), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(uint64(order), 1))
			const regions = 6
			r, disk := newCounts(order, regions)
			per := int64(1) << r.BlockBits()
			all := regions * per
			model := make([]uint64, all)
			highest := min(ondisk.MaxRefcount(order), 9)
			for region := range int64(regions - 1) {
				r.AddBlock(region, 110+region)
			}
			covered := all - per
			for range 3000 {
				c := rnd.Int64N(covered)
				n := min(1+rnd.Int64N(40), covered-c)
				switch rnd.IntN(6) {
				case 0:
					v := rnd.Uint64N(highest + 1)
					if err := r.Set(ctx, c, v); err != nil {
						t.Fatal(err)
					}
					model[c] = v
				case 1:
					if missing, err := r.Prepare(ctx, c, n); err != nil || missing >= 0 {
						t.Fatal(missing, err)
					}
					if err := r.Use(ctx, c, n); err != nil {
						t.Fatal(err)
					}
					for i := range n {
						model[c+i] = 1
					}
				case 2:
					raise(ctx, t, r, model, Run{First: c, N: n, Times: 1 + rnd.Uint64N(2)})
				case 3:
					lower(ctx, t, r, model, Run{First: c, N: n, Times: 1 + rnd.Uint64N(2)})
				case 4:
					flush(t, r)
				case 5:
					compare(ctx, t, r, model, rnd)
				}
			}
			flush(t, r)
			again := New(Config{Host: testHost{disk}, ClusterBits: testBits, Budget: testCluster, Writable: true})
			table, off := r.Table()
			again.Load(append([]uint64(nil), table...), off, order)
			compare(ctx, t, again, model, rnd)
		})
	}
}

func raise(ctx context.Context, t *testing.T, r *Counts, model []uint64, run Run) {
	t.Helper()
	want := int64(0)
	for want < run.N {
		v := model[run.First+want]
		if v == 0 || v+run.Times > ondisk.MaxRefcount(r.order) {
			break
		}
		model[run.First+want] += run.Times
		want++
	}
	got, err := r.Raise(ctx, run)
	if got != want || (err == nil) != (want == run.N) {
		t.Fatalf("Raise(%+v): %d, %v; want %d", run, got, err, want)
	}
}

func lower(ctx context.Context, t *testing.T, r *Counts, model []uint64, run Run) {
	t.Helper()
	bad, free := false, map[int64]bool{}
	for c := run.First; c < run.First+run.N; c++ {
		if model[c] < run.Times {
			bad = true
			continue
		}
		if model[c] -= run.Times; model[c] == 0 {
			free[c] = true
		}
	}
	err := r.Lower(ctx, run, func(c int64) {
		if !free[c] {
			t.Fatalf("cluster %d is said to be free", c)
		}
		delete(free, c)
	})
	if (err != nil) != bad || len(free) > 0 {
		t.Fatalf("Lower(%+v): %v, want an error: %v; not told of %v", run, err, bad, free)
	}
}

// compare compares all answers. The last region of the model has no block.
func compare(ctx context.Context, t *testing.T, r *Counts, model []uint64, rnd *rand.Rand) {
	t.Helper()
	get := r.Reader()
	for range 50 {
		c := rnd.Int64N(int64(len(model)))
		v, err := r.Get(ctx, c)
		w, err2 := get(ctx, c)
		if v != model[c] || w != v || err != nil || err2 != nil {
			t.Fatalf("cluster %d: %d and %d (%v, %v), want %d", c, v, w, err, err2, model[c])
		}
	}
	for region := range r.Regions() {
		next := region << r.BlockBits()
		err := r.Used(ctx, region, func(c int64, v uint64) bool {
			for ; next < c; next++ {
				if model[next] != 0 {
					t.Fatalf("cluster %d is left out", next)
				}
			}
			if v != model[c] || v == 0 {
				t.Fatalf("cluster %d: %d, want %d", c, v, model[c])
			}
			next++
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	from := rnd.Int64N(int64(len(model)))
	n := 1 + rnd.Int64N(30)
	least := 1 + rnd.Int64N(n)
	start, got, err := r.FindFree(ctx, from, n, least)
	if err != nil {
		t.Fatal(err)
	}
	free := func(c int64) bool { return c >= int64(len(model)) || model[c] == 0 }
	run := func(c int64) (l int64) {
		for l < n && free(c+l) {
			l++
		}
		return l
	}
	want := from
	for run(want) < least {
		want++
	}
	if start != want || got != run(want) {
		t.Fatalf("FindFree(%d, %d, %d): %d clusters at %d, want %d at %d", from, n, least, got, start, run(want), want)
	}
	last, err := r.LastUsed(ctx, from)
	for c := from; ; c-- {
		if c < 0 || !free(c) {
			if last != max(c, -1) || err != nil {
				t.Fatalf("LastUsed(%d): %d (%v), want %d", from, last, err, c)
			}
			return
		}
	}
}

func TestGrow(t *testing.T) {
	ctx := context.Background()
	r, disk := newCounts(4, 64)
	r.AddBlock(0, 110)
	if err := r.Set(ctx, 5, 7); err != nil {
		t.Fatal(err)
	}
	undo := r.Grow(128)
	r.AddBlock(64, 120)
	if err := r.Set(ctx, 64<<r.BlockBits(), 3); err != nil {
		t.Fatal(err)
	}
	undo()
	if off, err := r.Block(ctx, 64); off != 0 || err != nil || r.Regions() != 64 {
		t.Fatalf("undone: a block at %d (%v), %d regions", off, err, r.Regions())
	}
	flush(t, r)
	p := make([]byte, 4)
	if _, err := disk.ReadAt(ctx, p, 120<<testBits); err != nil || p[1] != 0 {
		t.Errorf("a block that was taken back is written: % x (%v)", p, err)
	}
	r.Grow(128)
	r.AddBlock(64, 120)
	if err := r.Set(ctx, 64<<r.BlockBits(), 3); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteBlocks(ctx); err != nil {
		t.Fatal(err)
	}
	r.MoveTable(130 << testBits)
	if changed, err := r.WriteTable(ctx); changed || err != nil {
		t.Errorf("a table that was moved is dirty (%v)", err)
	}
	if _, off := r.Table(); off != 130<<testBits {
		t.Errorf("the table is at %d", off)
	}
	if v, err := r.Get(ctx, 5); v != 7 || err != nil {
		t.Errorf("a former count is %d (%v)", v, err)
	}
	if err := r.Set(ctx, 64<<r.BlockBits()+1, 9); err != nil {
		t.Fatal(err)
	}
	if off := r.DropBlock(64); off != 120<<testBits {
		t.Errorf("the dropped block was at %d", off)
	}
	flush(t, r)
	if _, err := disk.ReadAt(ctx, p, 120<<testBits); err != nil || p[1] != 3 || p[3] != 0 {
		t.Errorf("what changed in a block that was dropped is written: % x (%v)", p, err)
	}
	if v, err := r.Get(ctx, 64<<r.BlockBits()); v != 0 || err != nil {
		t.Errorf("a region without a block counts %d (%v)", v, err)
	}
}

func TestDamagedTable(t *testing.T) {
	ctx := context.Background()
	for name, entry := range map[string]uint64{"unaligned": 1<<12 | 1<<10, "beyond the end": 1 << 40, "negative": 1 << 63} {
		r := New(Config{Host: testHost{mem.NewDisk(64 << 12)}, ClusterBits: 12, Budget: 1 << 12})
		r.Load([]uint64{0, entry}, testTable, 4)
		if _, err := r.Get(ctx, 1<<r.BlockBits()); !errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r, _ := newCounts(4, 4)
	if err := r.Set(ctx, 0, 1); !errors.Is(err, driver.ErrCorrupt) {
		t.Errorf("a count without a block: %v", err)
	}
	if missing, err := r.Prepare(ctx, 1<<r.BlockBits()-1, 2); missing != 0 || err != nil {
		t.Errorf("Prepare: region %d is missing (%v)", missing, err)
	}
	if _, _, err := r.FindFree(ctx, r.MaxCluster(), 1, 1); !errors.Is(err, driver.ErrRange) {
		t.Errorf("a search beyond the last cluster: %v", err)
	}
}
