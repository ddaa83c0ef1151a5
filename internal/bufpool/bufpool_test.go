package bufpool

import (
	"runtime"
	"sync"
	"testing"
	"unsafe"
)

func TestGet(t *testing.T) {
	for _, n := range []int{0, 1, 512, 4095, 4096, 4097, 65536, 65537, 1 << 20, 64 << 20, 64<<20 + 1, 65<<20 + 4096} {
		b := Get(n)
		if len(b) != n {
			t.Fatalf("Get(%d) has length %d", n, len(b))
		}
		if uintptr(unsafe.Pointer(unsafe.SliceData(b)))%Align != 0 {
			t.Fatalf("Get(%d) is not aligned", n)
		}
		Put(b)
	}
}

func TestPutRefusesForeignBuffers(t *testing.T) {
	b := Get(8192)
	Put(b[100:]) // not at the start: must not come back
	for range 100 {
		if c := Get(4096); uintptr(unsafe.Pointer(unsafe.SliceData(c)))%Align != 0 {
			t.Fatal("a misaligned buffer came back")
		}
	}
	Put(nil)
	Put(make([]byte, 3))
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop at random")
	}
	Put(Get(1 << 20))
	if n := testing.AllocsPerRun(100, func() { Put(Get(1 << 20)) }); n >= 1 {
		t.Fatalf("%v allocations per Get and Put", n)
	}
}

func TestConcurrentBuffersAreDistinct(t *testing.T) {
	var wg sync.WaitGroup
	for g := range byte(8) {
		wg.Go(func() {
			for range 200 {
				b := Get(4096)
				for i := range b {
					b[i] = g
				}
				for i := range b {
					if b[i] != g {
						t.Error("two owners of one buffer")
						return
					}
				}
				Put(b)
			}
		})
	}
	wg.Wait()
}

// TestShelves: buffers of chunks come back last to first, whatever the collector did, and no more than a bound are kept.
func TestShelves(t *testing.T) {
	const size = 256 << 10
	at := func(b []byte) *byte { return unsafe.SliceData(b) }
	a, b := Get(size), Get(size-1)
	Put(a)
	Put(b)
	runtime.GC()
	runtime.GC()
	if c, d := Get(size), Get(size/2+1); at(c) != at(b) || at(d) != at(a) || len(c) != size {
		t.Errorf("other buffers, of %d bytes", len(c))
	}
	var many [][]byte
	for range 2*maxShelved/size + 1 {
		many = append(many, Get(size))
	}
	for _, b := range many {
		Put(b)
	}
	if n := shelved.Load(); n > maxShelved || n < maxShelved-size {
		t.Errorf("%d bytes are kept, %d may be", n, maxShelved)
	}
	before := shelved.Load()
	b = Get(size)
	if n := shelved.Load(); n != before-size {
		t.Errorf("%d bytes are kept when one buffer was taken, not %d", n, before-size)
	}
	Put(b)
	if n := shelved.Load(); n != before {
		t.Errorf("%d bytes are kept when it was given back, not %d", n, before)
	}
}
