package clustertable

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const testSlice = 512

// testCache is a cache of so many slices over a disk whose slice i is filled with
// byte i+1.
func testCache(t *testing.T, slices int64, c Config) (*Cache, *mem.Disk) {
	t.Helper()
	disk := mem.NewDisk(64 * testSlice)
	for i := range int64(64) {
		write(t, disk, i*testSlice, byte(i+1))
	}
	c.SliceSize, c.Budget = testSlice, slices*testSlice
	if c.Lock == nil {
		c.Lock = &sync.RWMutex{}
	}
	return NewCache(c), disk
}

func write(t *testing.T, f driver.Storage, off int64, b byte) {
	t.Helper()
	if _, err := f.WriteAt(context.Background(), bytes.Repeat([]byte{b}, testSlice), off); err != nil {
		t.Fatal(err)
	}
}

func at(off int64) func() int64 { return func() int64 { return off } }

// first returns the first byte of the slice at off.
func first(t *testing.T, k *Cache, f driver.Storage, off int64) (b byte) {
	t.Helper()
	if err := k.View(context.Background(), f, at(off), func(s *Slice) { b = s.Data[0] }); err != nil {
		t.Fatal(err)
	}
	return b
}

func edit(t *testing.T, k *Cache, f driver.Storage, off int64, b byte) {
	t.Helper()
	if err := k.Edit(context.Background(), f, at(off), func(s *Slice) bool { s.Data[0] = b; return true }); err != nil {
		t.Fatal(err)
	}
}

func TestBudget(t *testing.T) {
	k, disk := testCache(t, 4, Config{})
	for round := range 3 {
		for i := range int64(63) {
			if got := first(t, k, disk, (i+1)*testSlice); got != byte(i+2) {
				t.Fatalf("round %d: slice %d begins with %d", round, i+1, got)
			}
			if len(k.slices) > 4 {
				t.Fatalf("%d slices are kept, the budget is 4", len(k.slices))
			}
		}
	}
	// Changes are never forgotten, whatever the budget.
	for i := range int64(10) {
		edit(t, k, disk, (i+1)*testSlice, 200)
	}
	for i := range int64(63) {
		want := byte(i + 2)
		if i < 10 {
			want = 200
		}
		if got := first(t, k, disk, (i+1)*testSlice); got != want {
			t.Fatalf("slice %d begins with %d, want %d", i+1, got, want)
		}
	}
	if k.Dirty() != 10 {
		t.Fatalf("%d dirty slices, want 10", k.Dirty())
	}
}

func TestNoTable(t *testing.T) {
	k, disk := testCache(t, 4, Config{})
	called := 0
	if err := k.View(context.Background(), disk, at(0), func(s *Slice) {
		if called++; s != nil {
			t.Error("View shows a slice at offset 0")
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := k.Edit(context.Background(), disk, at(0), func(s *Slice) bool {
		if called++; s != nil {
			t.Error("Edit shows a slice at offset 0")
		}
		return false
	}); err != nil {
		t.Fatal(err)
	}
	if called != 2 {
		t.Errorf("%d calls, want 2", called)
	}
}

func TestEndOfFile(t *testing.T) {
	k, disk := testCache(t, 4, Config{})
	if err := disk.Resize(context.Background(), 10*testSlice+100, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	err := k.View(context.Background(), disk, at(10*testSlice), func(s *Slice) {
		if !bytes.Equal(s.Data[:100], bytes.Repeat([]byte{11}, 100)) || !bytes.Equal(s.Data[100:], make([]byte, testSlice-100)) {
			t.Error("what lies beyond the end of the file is not zero")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSharedLoad: many look-ups of one slice read it once; one whose context ends
// does not wait, and does not fail the others.
func TestSharedLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int32
		release := make(chan struct{})
		k, disk := testCache(t, 4, Config{Load: func(ctx context.Context, p []byte, off int64) error {
			reads.Add(1)
			select {
			case <-release:
			case <-ctx.Done():
				return ctx.Err()
			}
			p[0] = 7
			return nil
		}})
		leader, cancel := context.WithCancel(context.Background())
		led := make(chan error, 1)
		go func() { led <- k.Load(leader, disk, testSlice) }()
		synctest.Wait()
		ended, end := context.WithCancel(context.Background())
		end()
		if err := k.Load(ended, disk, testSlice); !errors.Is(err, context.Canceled) {
			t.Fatalf("a load with a context that has ended: %v", err)
		}
		const followers = 5
		followed := make(chan error, followers)
		for range followers {
			go func() { followed <- k.Load(context.Background(), disk, testSlice) }()
		}
		synctest.Wait() // all wait for the first
		if n := reads.Load(); n != 1 {
			t.Fatalf("%d readings, want 1", n)
		}
		cancel()
		if err := <-led; !errors.Is(err, context.Canceled) {
			t.Fatalf("the first load: %v", err)
		}
		synctest.Wait() // one of the others reads
		close(release)
		for range followers {
			if err := <-followed; err != nil {
				t.Fatal(err)
			}
		}
		if n := reads.Load(); n != 2 {
			t.Errorf("%d readings, want 2", n)
		}
		if got := first(t, k, disk, testSlice); got != 7 {
			t.Errorf("the slice begins with %d", got)
		}
	})
}

func TestLoadError(t *testing.T) {
	failure := errors.New("no")
	k, disk := testCache(t, 4, Config{Load: func(context.Context, []byte, int64) error { return failure }})
	if err := k.View(context.Background(), disk, at(testSlice), func(*Slice) { t.Error("called") }); !errors.Is(err, failure) {
		t.Errorf("View: %v", err)
	}
	if len(k.slices)+len(k.loading) != 0 {
		t.Error("a slice that could not be read is kept")
	}
}

// TestDropWhileLoading: what was read before a table was dropped is not shown
// after it.
func TestDropWhileLoading(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	k, disk := testCache(t, 4, Config{Load: func(_ context.Context, p []byte, _ int64) error {
		begun <- struct{}{}
		<-release
		p[0] = 1
		return nil
	}})
	done := make(chan error)
	go func() { done <- k.Load(context.Background(), disk, testSlice) }()
	<-begun
	k.c.Lock.Lock()
	k.Drop(testSlice, testSlice)
	k.Put(testSlice, bytes.Repeat([]byte{9}, testSlice))
	k.c.Lock.Unlock()
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := first(t, k, disk, testSlice); got != 9 {
		t.Errorf("the slice begins with %d, want 9", got)
	}
}

func TestDrop(t *testing.T) {
	k, disk := testCache(t, 8, Config{})
	for i := range int64(6) {
		edit(t, k, disk, (i+1)*testSlice, 200)
	}
	k.Drop(2*testSlice, 3*testSlice)
	if k.Dirty() != 3 {
		t.Errorf("%d dirty slices, want 3", k.Dirty())
	}
	for i := range int64(6) {
		want := byte(200)
		if i >= 1 && i < 4 {
			want = byte(i + 2)
		}
		if got := first(t, k, disk, (i+1)*testSlice); got != want {
			t.Errorf("slice %d begins with %d, want %d", i+1, got, want)
		}
	}
	k.Reset()
	if k.Dirty() != 0 || first(t, k, disk, testSlice) != 2 {
		t.Error("Reset keeps changes")
	}
}

func TestClean(t *testing.T) {
	clock := time.Unix(0, 0)
	k, disk := testCache(t, 32, Config{CleanInterval: time.Minute})
	k.now = func() time.Time { return clock }
	k.Reset()
	load := func(i int64) { first(t, k, disk, i*testSlice) }
	for i := range int64(4) {
		load(i + 1)
	}
	edit(t, k, disk, testSlice, 200)
	clock = clock.Add(2 * time.Minute)
	load(10) // all were used since the beginning
	if len(k.slices) != 5 {
		t.Fatalf("%d slices, want 5", len(k.slices))
	}
	load(2)
	clock = clock.Add(2 * time.Minute)
	load(11) // forgets 3 and 4, which nobody used since; 1 is dirty
	for i, want := range map[int64]bool{1: true, 2: true, 3: false, 4: false, 10: true, 11: true} {
		if got := k.slices[i*testSlice] != nil; got != want {
			t.Errorf("slice %d is kept: %v, want %v", i, got, want)
		}
	}
}
