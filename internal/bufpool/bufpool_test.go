package bufpool

import (
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
