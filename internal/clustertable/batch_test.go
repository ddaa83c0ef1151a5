package clustertable

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

func TestBatchMerges(t *testing.T) {
	var b Batch
	half := make([]byte, maxMerged/2)
	b.Add(0, half)
	b.Add(maxMerged/2, half)
	b.Add(maxMerged, []byte{1})   // would get too long
	b.Add(maxMerged+2, []byte{2}) // no neighbour
	b.Add(maxMerged+3, []byte{3})
	var got [][2]int64
	for off, data := range b.All() {
		got = append(got, [2]int64{off, int64(len(data))})
	}
	if want := [][2]int64{{0, maxMerged}, {maxMerged, 1}, {maxMerged + 2, 2}}; !slices.Equal(got, want) {
		t.Errorf("pieces %v, want %v", got, want)
	}
	half[0] = 1
	for _, data := range b.All() {
		if data[0] != 0 {
			t.Error("Add did not copy")
		}
		break
	}
}

// TestTake: a batch has the dirty slices as they were; what is changed afterwards
// is dirty still, and after a failure everything is.
func TestTake(t *testing.T) {
	ctx := context.Background()
	k, disk := testCache(t, 2, Config{})
	for _, i := range []int64{5, 3, 4, 9} {
		edit(t, k, disk, i*testSlice, 200)
	}
	b := k.Take()
	var offs []int64
	for off, data := range b.All() {
		offs = append(offs, off, int64(len(data)))
	}
	if want := []int64{3 * testSlice, 3 * testSlice, 9 * testSlice, testSlice}; !slices.Equal(offs, want) {
		t.Errorf("pieces %v, want %v", offs, want)
	}
	if k.Dirty() != 0 {
		t.Errorf("%d dirty slices after Take", k.Dirty())
	}
	edit(t, k, disk, 4*testSlice, 201)
	// Slices under way stay, however many others come: the file has old contents.
	for i := range int64(20) {
		first(t, k, disk, (i+20)*testSlice)
	}
	for _, i := range []int64{3, 5, 9} {
		if k.slices[i*testSlice] == nil {
			t.Fatalf("slice %d was evicted while it was written", i)
		}
	}
	b.Done(errors.New("failed"))
	if k.Dirty() != 4 {
		t.Errorf("%d dirty slices after a failure, want 4", k.Dirty())
	}
	b = k.Take()
	edit(t, k, disk, 4*testSlice, 202)
	k.Drop(9*testSlice, testSlice)
	if err := b.Write(ctx, disk); err != nil {
		t.Fatal(err)
	}
	b.Done(nil)
	if k.Dirty() != 1 || !k.slices[4*testSlice].dirty {
		t.Errorf("%d dirty slices, want slice 4 alone", k.Dirty())
	}
	p := make([]byte, 1)
	if _, err := disk.ReadAt(ctx, p, 4*testSlice); err != nil || p[0] != 201 {
		t.Errorf("the file has %d (%v), want what was taken", p[0], err)
	}
	// A dropped slice does not come back by a failure.
	b = k.Take()
	k.Drop(4*testSlice, testSlice)
	b.Done(errors.New("failed"))
	if k.Dirty() != 0 {
		t.Errorf("%d dirty slices, want none", k.Dirty())
	}
}

// TestWriteInOrder: there is a flush between any two batches that write, and none
// elsewhere.
func TestWriteInOrder(t *testing.T) {
	ctx := context.Background()
	var begun []string
	batch := func(name string, offs ...int64) *Batch {
		b := &Batch{Begin: func() { begun = append(begun, name) }}
		for _, off := range offs {
			b.Add(off, []byte{1})
		}
		return b
	}
	for name, c := range map[string]struct {
		batches []*Batch
		want    []string
		begun   []string
	}{
		"none":     {nil, nil, nil},
		"empty":    {[]*Batch{batch("a"), batch("b")}, nil, nil},
		"one":      {[]*Batch{batch("a"), batch("b", 7), batch("c")}, []string{"write 7+1"}, []string{"b"}},
		"all":      {[]*Batch{batch("a", 1, 5), batch("b", 7), batch("c", 9)}, []string{"write 1+1", "write 5+1", "flush 0+0", "write 7+1", "flush 0+0", "write 9+1"}, []string{"a", "b", "c"}},
		"in holes": {[]*Batch{batch("a", 1), batch("b"), batch("c", 3)}, []string{"write 1+1", "flush 0+0", "write 3+1"}, []string{"a", "c"}},
	} {
		begun = nil
		r := testkit.NewRecorder(mem.NewDisk(4096))
		if err := WriteInOrder(ctx, r, c.batches...); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range r.Events() {
			got = append(got, e.String())
		}
		if !slices.Equal(got, c.want) || !slices.Equal(begun, c.begun) {
			t.Errorf("%s: %q, begun %q; want %q and %q", name, got, begun, c.want, c.begun)
		}
	}
}

// TestWriteInOrderStops: after a failure nothing that depends on it is written.
func TestWriteInOrderStops(t *testing.T) {
	failure := errors.New("no")
	for name, bad := range map[string]mem.Op{"write": mem.OpWrite, "flush": mem.OpFlush} {
		disk := mem.NewDisk(4096)
		r := testkit.NewRecorder(disk)
		a, b := &Batch{}, &Batch{}
		a.Add(0, []byte{1})
		b.Add(1, []byte{1})
		disk.SetHook(func(op mem.Op, _, _ int64) error {
			if op == bad {
				return failure
			}
			return nil
		})
		if err := WriteInOrder(context.Background(), r, a, b); !errors.Is(err, failure) {
			t.Errorf("%s: %v", name, err)
		}
		disk.SetHook(nil)
		p := make([]byte, 2)
		if _, err := disk.ReadAt(context.Background(), p, 0); err != nil || p[1] != 0 {
			t.Errorf("%s: the second batch was written (%v)", name, err)
		}
	}
}

func TestRoot(t *testing.T) {
	entries := make([]uint64, 150) // two whole sectors and a part
	r := NewRoot(entries, 1000, binary.BigEndian)
	if !r.Take().Empty() || r.Bytes() != 1200 {
		t.Error("a new table is dirty, or has another length")
	}
	check := func(b *Batch, off int64, n int) {
		t.Helper()
		var got [][]byte
		for o, data := range b.All() {
			if got = append(got, data); o != off {
				t.Errorf("a piece at %d, want %d", o, off)
			}
		}
		if len(got) != 1 || len(got[0]) != n {
			t.Fatalf("pieces %v", got)
		}
		for i := range n / 8 {
			if e := r.Entries[(off-1000)/8+int64(i)]; binary.BigEndian.Uint64(got[0][8*i:]) != e {
				t.Errorf("entry %d is not %#x", i, e)
			}
		}
	}
	r.Set(70, 0x1122334455667788)
	b := r.Take()
	check(b, 1512, 512)
	r.Set(149, 5)
	b.Done(errors.New("failed"))
	b = r.Take() // both sectors, merged; the last one is short
	check(b, 1512, 512+(150-128)*8)
	b.Done(nil)
	if !r.Take().Empty() {
		t.Error("dirty after it was written")
	}
	r.Set(149, 6)
	r.Set(3, 6)
	r.Replace(r.Entries[:64])
	check(r.Take(), 1000, 512)
	// A failure must not bring back sectors that are gone.
	r = NewRoot(make([]uint64, 150), 1000, binary.BigEndian)
	r.Set(149, 6)
	b = r.Take()
	r.Replace(r.Entries[:64])
	b.Done(errors.New("failed"))
	if !r.Take().Empty() {
		t.Error("a sector behind the end is dirty")
	}
}

func TestDifference(t *testing.T) {
	have, want := make([]uint64, 200), make([]uint64, 200)
	if !Difference(0, have, want, binary.LittleEndian).Empty() {
		t.Error("equal tables differ")
	}
	want[0], want[199] = 1, 2
	var got []int64
	var last []byte
	for off, data := range Difference(4096, have, want, binary.LittleEndian).All() {
		got, last = append(got, off, int64(len(data))), data
	}
	if !slices.Equal(got, []int64{4096, 512, 4096 + 3*512, 8 * (200 - 192)}) || !bytes.HasSuffix(last, []byte{2, 0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("pieces %v, the last ends with %v", got, last[len(last)-8:])
	}
}
