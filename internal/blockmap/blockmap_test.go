package blockmap

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/clustertable"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// toy is a layout with entries that are 0 or the offset of a unit in the file.
func toy(unit, entries int64) Layout {
	return Layout{Noun: "block", Unit: unit, Table: 512, Entries: entries, Width: 8, Order: binary.LittleEndian,
		First: roundUp(512+entries*8, unit), Align: unit, FreeUnits: true, Reuse: true, Writable: true,
		Decode: func(raw uint64) Entry {
			switch {
			case raw == 0:
				return Entry{}
			case raw > maxOffset || int64(raw)%unit != 0:
				return Entry{State: Bad}
			}
			return Entry{State: Data, Host: int64(raw)}
		},
		Encode: func(e Entry) uint64 {
			if e.State == Data {
				return uint64(e.Host)
			}
			return 0
		}}
}

// partly is a layout whose units have a part of their sectors only.
func partly(l Layout) Layout {
	decode := l.Decode
	l.Decode = func(raw uint64) Entry {
		e := decode(raw)
		e.Partial = e.State == Data
		return e
	}
	return l
}

// lab is a toy image on a disk in memory.
type lab struct {
	*Disk
	t    *testing.T
	file *mem.Disk
	env  *driver.Env
}

func open(t *testing.T, file *mem.Disk, l Layout, h Hooks, size int64) *lab {
	t.Helper()
	env := &driver.Env{Budget: &driver.Budget{MaxMemory: 8 << 20}, Guard: &driver.Guard{}}
	d, err := New(l, h, file, env, size)
	if err != nil {
		t.Fatal(err)
	}
	return &lab{d, t, file, env}
}

// put writes one byte to the unit at off and returns where that lies.
func (l *lab) put(off int64, b byte) int64 {
	l.t.Helper()
	target, err := l.Allocate(l.t.Context(), off, 1)
	if err == nil {
		_, err = target.Child.WriteAt(l.t.Context(), []byte{b}, target.HostOffset)
	}
	if err == nil && target.Pending != nil {
		err = target.Pending.Commit(l.t.Context())
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return target.HostOffset
}

// where returns where the byte at off lies, -1 if nowhere.
func (l *lab) where(off int64) int64 {
	l.t.Helper()
	x, err := l.Map(l.t.Context(), off, 1)
	if err != nil {
		l.t.Fatal(err)
	}
	if x.Kind != driver.ExtentData {
		return -1
	}
	return x.HostOffset
}

func (l *lab) do(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// TestLarge: a disk of 64 TiB in small blocks is opened, written and mapped in little
// memory.
func TestLarge(t *testing.T) {
	const unit, size = 64 << 10, 64 << 40
	layout := toy(unit, size/unit) // a table of 8 GiB
	file := mem.NewDisk(layout.First)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	l := open(t, file, layout, Hooks{}, size)
	places := map[int64]int64{}
	for _, off := range []int64{0, size - 1, size / 2, size / 3} {
		places[off] = l.put(off, 7)
	}
	l.do(l.Close(t.Context()))
	l = open(t, file, layout, Hooks{}, size)
	for off, host := range places {
		if got := l.where(off); got != host {
			t.Errorf("%d lies at %d, was put to %d", off, got, host)
		}
	}
	l.do(l.Close(t.Context()))
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
}

// TestEntriesBeyondTheEnd: in an image that was cut off, room that an entry names is not
// handed out.
func TestEntriesBeyondTheEnd(t *testing.T) {
	layout := toy(4096, 16)
	file := mem.NewDisk(layout.First)
	l := open(t, file, layout, Hooks{}, 16*4096)
	lost := []int64{l.put(0, 1), l.put(4096, 1), l.put(3*4096, 1)}
	l.do(l.Close(t.Context()))
	l.do(file.Resize(t.Context(), layout.First, driver.ResizeOptions{}))
	l = open(t, file, layout, Hooks{}, 16*4096)
	if host := l.put(2*4096, 2); slices.Contains(lost, host) {
		t.Errorf("%d is used twice", host)
	}
}

// TestRoomWaitsForReaders: what was given up is used again once nobody reads it, whether
// the tables were looked at before or after.
func TestRoomWaitsForReaders(t *testing.T) {
	layout := toy(4096, 16)
	file := mem.NewDisk(layout.First)
	l := open(t, file, layout, Hooks{}, 16*4096)
	l.put(0, 1)
	given := l.put(4096, 1)
	l.put(2*4096, 1)
	l.do(l.Close(t.Context()))
	l = open(t, file, layout, Hooks{}, 16*4096)
	reader := l.env.Guard.Enter()
	l.do(l.Discard(t.Context(), 4096, 4096))
	l.do(l.Flush(t.Context()))
	if host := l.put(5*4096, 2); host == given {
		t.Error("room was used again under a reader")
	}
	l.env.Guard.Exit(reader)
	l.do(l.Flush(t.Context()))
	if host := l.put(6*4096, 2); host != given {
		t.Errorf("new room at %d, though %d is free", host, given)
	}
}

// TestAbort: room that was given back is used again, and a waiting writer goes on.
func TestAbort(t *testing.T) {
	layout := toy(4096, 16)
	l := open(t, mem.NewDisk(layout.First), layout, Hooks{}, 16*4096)
	first, err := l.Allocate(t.Context(), 0, 100)
	l.do(err)
	done := make(chan int64)
	go func() { done <- l.put(50, 1) }()
	first.Pending.Abort(t.Context())
	if host := <-done; host != layout.First+50 {
		t.Errorf("the byte lies at %d", host)
	}
}

// TestOrder: what Linking writes is durable before a table entry that names new room is
// written.
func TestOrder(t *testing.T) {
	layout := toy(4096, 16)
	file := mem.NewDisk(layout.First)
	var log []string
	l := open(t, file, layout, Hooks{Linking: func(_ context.Context, end int64) error {
		log = append(log, "linking")
		if end != layout.First+4096 {
			t.Errorf("the end is %d", end)
		}
		return nil
	}}, 16*4096)
	l.put(4096, 1)
	file.SetHook(func(op mem.Op, off, _ int64) error {
		switch {
		case op == mem.OpFlush:
			log = append(log, "flush")
		case op == mem.OpWrite && off < layout.First:
			log = append(log, "table")
		}
		return nil
	})
	l.do(l.Flush(t.Context()))
	if want := []string{"linking", "flush", "table", "flush"}; !slices.Equal(log, want) {
		t.Errorf("%v, want %v", log, want)
	}
}

// TestFailedWriteback: after an error the next write-back does all of it again.
func TestFailedWriteback(t *testing.T) {
	layout := toy(4096, 16)
	file := mem.NewDisk(layout.First)
	broken := errors.New("broken")
	for n := range 5 {
		l := open(t, file.Clone(), layout, Hooks{}, 16*4096)
		l.put(4096, 1)
		count := 0
		l.file.SetHook(func(op mem.Op, _, _ int64) error {
			if op == mem.OpRead {
				return nil
			}
			if count++; count == n+1 {
				return broken
			}
			return nil
		})
		err := l.Flush(t.Context())
		l.file.SetHook(nil)
		if failed := n < count; errors.Is(err, broken) != failed {
			t.Fatalf("change %d: %v", n, err)
		}
		l.do(l.Flush(t.Context()))
		again := open(t, l.file, layout, Hooks{}, 16*4096)
		if again.where(4096) < 0 {
			t.Errorf("change %d: the entry is lost", n)
		}
	}
}

// TestSectors compares runs of sectors with the bitmap, bit by bit.
func TestSectors(t *testing.T) {
	const unit = 64 * 512
	layout := toy(unit, 4)
	layout.Backing = true
	file := mem.NewDisk(layout.First)
	l := open(t, file, layout, Hooks{}, 4*unit)
	host := l.put(unit, 1)
	l.do(l.Close(t.Context()))
	r := testkit.Rand(1)
	for range 50 {
		bitmap := make([]byte, 8)
		for i := range bitmap {
			bitmap[i] = []byte{0, 0xff, byte(r.Uint32())}[r.IntN(3)]
		}
		l := open(t, file, partly(layout), Hooks{Sectors: func(_ context.Context, u, at int64) ([]byte, error) {
			if u != 1 || at != host {
				t.Fatalf("asked for %d at %d", u, at)
			}
			return bitmap, nil
		}}, 4*unit)
		for off := int64(unit); off < 2*unit; {
			x, err := l.Map(t.Context(), off, 2*unit-off)
			l.do(err)
			for i := off; i < off+x.Length; i += 512 {
				s := (i - unit) / 512
				here := bitmap[s/8]>>(7-s%8)&1 != 0
				if here != (x.Kind == driver.ExtentData) || here && x.HostOffset != host+off-unit {
					t.Fatalf("bitmap %x, sector %d: %+v", bitmap, s, x)
				}
			}
			if end := off + x.Length; end < 2*unit {
				s := (end - unit) / 512
				if next := bitmap[s/8]>>(7-s%8)&1 != 0; next == (x.Kind == driver.ExtentData) {
					t.Fatalf("bitmap %x: a run ends at sector %d", bitmap, s)
				}
			}
			off += x.Length
		}
		// A part is missing: writing needs new room.
		if full := slices.Equal(bitmap, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); !full {
			target, err := l.Allocate(t.Context(), unit+512, 512)
			l.do(err)
			if target.Pending == nil || target.Head != 512 || target.Tail != unit-1024 {
				t.Fatalf("%+v", target)
			}
			target.Pending.Abort(t.Context())
		}
	}
}

// TestPlaces compares a set of places with a simple one, in sets of a part of a page and of several pages.
func TestPlaces(t *testing.T) {
	r := testkit.Rand(2)
	for range 200 {
		total, longest := int64(200), int64(20)
		if r.IntN(4) == 0 {
			total, longest = 2*pagePlaces+1+r.Int64N(pagePlaces), pagePlaces*3/2
		}
		budget := &driver.Budget{MaxMemory: 1 << 20}
		p, err := makePlaces(total, 1000, 10, budget)
		if err != nil {
			t.Fatal(err)
		}
		taken := make([]bool, total)
		for range r.IntN(40) {
			from, n := r.Int64N(total), 1+r.Int64N(longest)
			if r.IntN(3) == 0 {
				from = from / 64 * 64
			}
			fresh, twice := p.take(1000+10*from, 10*n)
			var wantFresh int64
			wantTwice := false
			for i := from; i < min(from+n, total); i++ {
				if taken[i] {
					wantTwice = true
				} else {
					wantFresh++
				}
				taken[i] = true
			}
			if fresh != wantFresh || twice != wantTwice {
				t.Fatalf("take %d+%d of %d: %d %v, want %d %v", from, n, total, fresh, twice, wantFresh, wantTwice)
			}
		}
		last := r.Int64N(total + total/4)
		var holes []int64
		var wide []int64 // places for units of seven
		var units, run int64
		for i := int64(0); i < min(last, total); i++ {
			if taken[i] {
				run = 0
				continue
			}
			if len(holes) < maxHoles {
				holes = append(holes, 1000+10*i)
			}
			if run++; run == 7 {
				if len(wide) < maxHoles {
					wide = append(wide, 1000+10*(i-6))
				}
				units, run = units+1, 0
			}
		}
		if got := p.holes(1000+10*last, 70); !slices.Equal(got, wide) {
			t.Fatalf("%d holes of seven before %d of %d, want %d", len(got), last, total, len(wide))
		}
		if got := p.holes(1000+10*last, 10); !slices.Equal(got, holes) {
			t.Fatalf("%d holes before %d of %d, want %d", len(got), last, total, len(holes))
		}
		if got := p.unitsFree(1000+10*last, 70); got != units {
			t.Fatalf("room for %d units before %d of %d, want %d", got, last, total, units)
		}
		if p.release(); budget.Table("all", 1<<20) != nil {
			t.Fatal("memory of the budget is not given back")
		}
	}
}

// TestPlacesMemory: a set of many places costs memory for those parts only that are neither empty nor full, and is
// incomplete, which its error tells, when there is not enough.
func TestPlacesMemory(t *testing.T) {
	budget := &driver.Budget{MaxMemory: 64 << 10}
	p, err := makePlaces(64*pagePlaces, 0, 1, budget)
	if err != nil {
		t.Fatal(err)
	}
	if fresh, _ := p.take(0, 60*pagePlaces); fresh != 60*pagePlaces || p.err != nil {
		t.Errorf("%d places of 60 pages, %v", fresh, p.err)
	}
	for i := range int64(4) {
		p.take((60+i)*pagePlaces, 1)
	}
	if p.err != nil {
		t.Error(p.err)
	}
	if _, twice := p.take(0, 60*pagePlaces); !twice {
		t.Error("what is full is taken again")
	}
	if p, err = makePlaces(64*pagePlaces, 0, 1, budget); err != nil {
		t.Fatal(err)
	}
	for i := range int64(64) {
		p.take(i*pagePlaces, 1)
	}
	if !errors.Is(p.err, driver.ErrBudget) {
		t.Errorf("64 parts of pages: %v", p.err)
	}
}

// TestOneTableTwice: a table that two entries of a directory name is looked at once.
func TestOneTableTwice(t *testing.T) {
	layout := toy(4096, 0)
	layout.Entries, layout.Table, layout.First = 0, 0, 8192
	layout.Dir = &Directory{Off: 512, Entries: 8, Width: 8, TableBytes: 512, Align: 4096,
		Decode: func(raw uint64) (int64, bool) { return int64(raw), true }, Encode: func(off int64) uint64 { return uint64(off) }}
	file := mem.NewDisk(8192)
	l := open(t, file, layout, Hooks{}, 8*64*4096)
	host := l.put(0, 1)
	l.do(l.Close(t.Context()))
	b := make([]byte, 8)
	if _, err := file.ReadAt(t.Context(), b, 512); err != nil {
		t.Fatal(err)
	}
	for i := range int64(3) {
		if _, err := file.WriteAt(t.Context(), b, 520+8*i); err != nil {
			t.Fatal(err)
		}
	}
	l = open(t, file, layout, Hooks{}, 8*64*4096)
	var found []Finding
	u, err := l.Check(t.Context(), func(f Finding) { found = append(found, f) })
	l.do(err)
	if u.Allocated != 1 || u.Tables != 1 || len(found) != 3 || found[0].Problem != TableTwice {
		t.Errorf("%+v %+v", u, found)
	}
	if l.where(64*4096) != host {
		t.Error("the second entry reads something else")
	}
	visits := 0
	l.do(l.Entries(t.Context(), func(int64, Entry) error { visits++; return nil }))
	if visits != 1 {
		t.Errorf("the entry was visited %d times", visits)
	}
}

// TestPartIsReplaced: when a unit of which a part is missing gets room of its own, its old
// place becomes free.
func TestPartIsReplaced(t *testing.T) {
	layout := toy(4096, 16)
	layout.Backing = true
	file := mem.NewDisk(layout.First)
	l := open(t, file, layout, Hooks{}, 16*4096)
	old := l.put(4096, 1)
	l.do(l.Close(t.Context()))
	l = open(t, file, partly(layout), Hooks{Sectors: func(context.Context, int64, int64) ([]byte, error) { return []byte{0x0f}, nil }}, 16*4096)
	if host := l.put(4096, 2); host == old {
		t.Error("the data was written to the old place")
	}
	l.do(l.Flush(t.Context()))
	l.do(l.Flush(t.Context()))
	if host := l.put(2*4096, 3); host != old {
		t.Errorf("the old place at %d is not used again, but %d", old, host)
	}
}

// TestGivenUpLast: the last unit of the file, given up before room was looked for, is handed
// out once and not twice: neither before that is durable, nor while it waits.
func TestGivenUpLast(t *testing.T) {
	ctx := t.Context()
	for _, flushed := range []bool{false, true} {
		layout := toy(4096, 16)
		file := mem.NewDisk(layout.First)
		l := open(t, file, layout, Hooks{}, 16*4096)
		l.put(0, 1)
		last := l.put(4096, 1)
		l.do(l.Close(ctx))
		l = open(t, file, layout, Hooks{}, 16*4096)
		l.do(l.Discard(ctx, 4096, 4096))
		if flushed {
			l.do(l.Flush(ctx))
		}
		hosts := map[int64]bool{l.put(2*4096, 2): true}
		if !flushed && hosts[last] {
			t.Error("a unit that the file still names is overwritten")
		}
		for u := int64(3); u < 8; u++ {
			l.do(l.Flush(ctx))
			host := l.put(u*4096, byte(u))
			if hosts[host] {
				t.Fatalf("flushed %v: %d is used twice", flushed, host)
			}
			hosts[host] = true
		}
		p := make([]byte, 1)
		for u := int64(2); u < 8; u++ {
			if _, err := file.ReadAt(ctx, p, l.where(u*4096)); err != nil || p[0] != byte(u) {
				t.Errorf("flushed %v: unit %d holds %d, %v", flushed, u, p[0], err)
			}
		}
		l.do(l.Close(ctx))
	}
}

// TestTableNowhere: a header that is damaged can say that the table, or the directory, lies
// at the start of the file, which stands for no table.
func TestTableNowhere(t *testing.T) {
	env := &driver.Env{Budget: &driver.Budget{MaxMemory: 8 << 20}, Guard: &driver.Guard{}}
	flat, deep := toy(4096, 16), toy(4096, 16)
	deep.Dir = &Directory{Off: 512, Entries: 1, Width: 8, TableBytes: 512, Align: 512,
		Decode: func(raw uint64) (int64, bool) { return int64(raw), true }, Encode: func(off int64) uint64 { return uint64(off) }}
	for _, at := range []int64{0, -512} {
		flat.Table, deep.Dir.Off = at, at
		for _, l := range []Layout{flat, deep} {
			if _, err := New(l, Hooks{}, mem.NewDisk(1<<20), env, 16*4096); !errors.Is(err, driver.ErrCorrupt) {
				t.Errorf("a table at %d: %v", at, err)
			}
			d, err := New(l, Hooks{}, mem.NewDisk(1<<20), env, 0)
			if err != nil {
				t.Fatalf("a disk without units: %v", err)
			}
			d.Release()
		}
	}
}

// TestLog: a format can write the table itself, once the data is there, and is told before
// the file is cut off. New units lie behind the end that the file had.
func TestLog(t *testing.T) {
	ctx := t.Context()
	layout := toy(4096, 16)
	layout.AtEnd, layout.Reuse = true, false
	file := mem.NewDisk(layout.First + 5*4096)
	var logged []int64
	trimmed := 0
	l := open(t, file, layout, Hooks{
		Link: func(ctx context.Context, b *clustertable.Batch) error {
			for off := range b.All() {
				logged = append(logged, off)
			}
			return b.Write(ctx, file)
		},
		Trimming: func(context.Context) error { trimmed++; return nil },
	}, 16*4096)
	if host := l.put(4096, 1); host != layout.First+5*4096 {
		t.Errorf("the first unit lies at %d", host)
	}
	if len(logged) != 0 {
		t.Error("the table was written before it had to be")
	}
	l.do(l.Flush(ctx))
	if len(logged) != 1 || logged[0] != layout.Table {
		t.Errorf("written: %v", logged)
	}
	target, err := l.Allocate(ctx, 8192, 1)
	l.do(err)
	if _, err := file.WriteAt(ctx, []byte{1}, target.HostOffset); err != nil {
		t.Fatal(err)
	}
	target.Pending.Abort(ctx)
	l.do(l.Close(ctx))
	if trimmed != 1 {
		t.Errorf("told of cutting off %d times", trimmed)
	}
}

// TestPartMoves: what says which sectors a unit has moves with it.
func TestPartMoves(t *testing.T) {
	ctx := t.Context()
	layout := toy(4096, 16)
	layout.Backing, layout.Prefix = true, 512
	file := mem.NewDisk(layout.First)
	l := open(t, file, layout, Hooks{}, 16*4096)
	old := l.put(4096, 1)
	l.do(l.Close(ctx))
	if _, err := file.WriteAt(ctx, []byte{0x80}, old-512); err != nil {
		t.Fatal(err)
	}
	l = open(t, file, partly(layout), Hooks{
		Sectors: func(ctx context.Context, _, host int64) ([]byte, error) {
			p := make([]byte, 1)
			_, err := file.ReadAt(ctx, p, host-512)
			return p, err
		},
		NewUnit: func(context.Context, int64) error { t.Error("a unit that moves is no new one"); return nil },
	}, 16*4096)
	l.do(l.Vacate(ctx, old+4096))
	if host := l.where(4096); host < old+4096 {
		t.Errorf("the unit lies at %d", host)
	}
	if host := l.where(4096 + 512); host != -1 {
		t.Errorf("a sector that is not there lies at %d", host)
	}
}

// TestVacateGivenUp: a place that was given up before, and becomes free only while others are moved away, is not one
// that they move to.
func TestVacateGivenUp(t *testing.T) {
	ctx := t.Context()
	layout := toy(4096, 16)
	l := open(t, mem.NewDisk(layout.First), layout, Hooks{}, 16*4096)
	for i := range int64(3) {
		l.put(i*4096, byte(i))
	}
	l.do(l.Flush(ctx))
	l.do(l.Discard(ctx, 0, 4096))
	l.do(l.Flush(ctx)) // the first place is free as soon as somebody looks
	end := layout.First + 2*4096
	l.do(l.Vacate(ctx, end))
	for i := range int64(3) {
		if host := l.where(i * 4096); host >= 0 && host < end {
			t.Errorf("unit %d lies at %d, want none before %d", i, host, end)
		}
	}
	l.do(l.Flush(ctx))
	if host := l.put(3*4096, 3); host < end {
		t.Errorf("a new unit lies at %d", host)
	}
}
