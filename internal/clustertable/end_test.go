package clustertable

import (
	"context"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/protocol/mem"
)

// TestEnd: the last slice is cut off where the table ends, and what lies behind is not
// written.
func TestEnd(t *testing.T) {
	ctx := context.Background()
	disk := mem.NewDisk(0)
	if _, err := disk.WriteAt(ctx, []byte("0123456789abcdef"), 1000); err != nil {
		t.Fatal(err)
	}
	var lock sync.RWMutex
	k := NewCache(Config{SliceSize: 8, End: 1012, Budget: 64, Lock: &lock, WriteLock: &sync.Mutex{}, Writable: true})
	change := func(off int64, length int) {
		t.Helper()
		err := k.Edit(ctx, disk, at(off), func(s *Slice) bool {
			if len(s.Data) != length {
				t.Errorf("the slice at %d has %d bytes, want %d", off, len(s.Data), length)
			}
			for i := range s.Data {
				s.Data[i] = 'x'
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		lock.Lock()
		b := k.Take()
		lock.Unlock()
		if err := b.Write(ctx, disk); err != nil {
			t.Fatal(err)
		}
		lock.Lock()
		b.Done(nil)
		lock.Unlock()
	}
	change(1008, 4)
	lock.Lock()
	k.SetEnd(1013)
	lock.Unlock()
	change(1008, 5)
	got := make([]byte, 16)
	if _, err := disk.ReadAt(ctx, got, 1000); err != nil || string(got) != "01234567xxxxxdef" {
		t.Errorf("%q, %v", got, err)
	}
}
