package clustertable

import (
	"context"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/protocol/mem"
)

func TestMayHaveHole(t *testing.T) {
	full := make([]byte, 3*holePage)
	for i := range full {
		full[i] = 1
	}
	hole := func(from, to int) []byte {
		p := append([]byte(nil), full...)
		clear(p[from:to])
		return p
	}
	for name, c := range map[string]struct {
		p    []byte
		off  int64
		want bool
	}{
		"nothing":           {nil, 0, false},
		"full":              {full, 0, false},
		"a page":            {hole(holePage, 2*holePage), 0, true},
		"less than a page":  {hole(holePage, 2*holePage-1), 0, false},
		"across a boundary": {hole(holePage/2, holePage*3/2), 0, false},
		"a page, shifted":   {hole(holePage/2, holePage*3/2), holePage / 2, true},
		"end of a page":     {hole(0, 512), holePage - 512, true},
		"part at the end":   {hole(3*holePage-512, 3*holePage), 512, true},
	} {
		if got := mayHaveHole(c.p, c.off); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// mapped lists the kinds of the pages of a disk.
func mapped(t *testing.T, f driver.Storage) (data []bool) {
	t.Helper()
	for off := int64(0); off < f.Size(); off += holePage {
		x, err := f.Map(context.Background(), off, holePage)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, x.Kind == driver.ExtentData)
	}
	return data
}

// TestCover: before a slice is changed, its holes have room on disk, and no other
// slice gets any.
func TestCover(t *testing.T) {
	ctx := context.Background()
	disk := mem.NewDisk(8 * holePage)
	if _, err := disk.WriteAt(ctx, []byte{1}, 3*holePage); err != nil {
		t.Fatal(err)
	}
	var lock sync.RWMutex
	k := NewCache(Config{SliceSize: 2 * holePage, Budget: 8 * holePage, Lock: &lock, WriteLock: &sync.Mutex{}, Writable: true})
	if err := k.View(ctx, disk, at(2*holePage), func(*Slice) {}); err != nil {
		t.Fatal(err)
	}
	if got := mapped(t, disk); got[2] {
		t.Error("looking at a slice gives it room")
	}
	err := k.Edit(ctx, disk, at(2*holePage), func(s *Slice) bool {
		if got := mapped(t, disk); !got[2] || !got[3] {
			t.Error("a slice in a hole is changed")
		}
		if s.unsure {
			t.Error("a slice that has room counts as one without")
		}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	got := mapped(t, disk)
	for i, want := range []bool{false, false, true, true, false, false, false, false} {
		if got[i] != want {
			t.Errorf("page %d has room: %v", i, got[i])
		}
	}
	// With the lock held throughout, and beyond the end of the file.
	end := int64(8 * holePage)
	s, err := k.Fetch(ctx, disk, end)
	if err != nil {
		t.Fatal(err)
	}
	if !s.unsure {
		t.Error("what lies beyond the end has room")
	}
	if err := k.CoverFetched(ctx, disk, s); err != nil {
		t.Fatal(err)
	}
	if got := mapped(t, disk); len(got) != 10 || !got[8] || !got[9] || s.unsure {
		t.Errorf("the pages of the fetched slice: %v", got)
	}
	if again, err := k.Fetch(ctx, disk, end); err != nil || again != s {
		t.Errorf("Fetch reads a slice again that is in memory (%v)", err)
	}
}
