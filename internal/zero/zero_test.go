package zero

import (
	"fmt"
	"testing"
)

func TestIsZeroFindsEveryByte(t *testing.T) {
	for _, n := range []int{0, 1, 2, 7, 8, 9, 15, 16, 31, 63, 64, 65, 511, 512, 4095, 4096, 4097, 8192, 12289} {
		for _, shift := range []int{0, 1, 3} {
			b := make([]byte, n+shift)[shift:]
			if !IsZero(b) {
				t.Fatalf("%d zero bytes are not zero", n)
			}
			for i := range b {
				b[i] = 1 << (i % 8)
				if IsZero(b) {
					t.Fatalf("byte %d of %d not seen", i, n)
				}
				b[i] = 0
			}
		}
	}
}

func TestIsZeroIgnoresWhatLiesOutside(t *testing.T) {
	b := make([]byte, 8192)
	for i := range b {
		b[i] = 0xff
	}
	clear(b[100:8000])
	if !IsZero(b[100:8000]) || IsZero(b[99:8000]) || IsZero(b[100:8001]) {
		t.Fatal("looks beyond its argument")
	}
}

func TestPrefix(t *testing.T) {
	b := make([]byte, 10*512+100)
	b[3*512+7] = 1
	b[10*512+99] = 1
	for _, c := range []struct {
		off    int
		zeroes bool
		want   int
	}{
		{0, true, 3 * 512}, {0, false, 0}, {3 * 512, false, 512}, {3 * 512, true, 0},
		{4 * 512, true, 6 * 512}, {10 * 512, true, 0}, {10 * 512, false, 100}, {len(b), true, 0},
	} {
		if got := Prefix(b[c.off:], c.zeroes, 512); got != c.want {
			t.Errorf("Prefix(from %d, %v) = %d, want %d", c.off, c.zeroes, got, c.want)
		}
	}
}

func BenchmarkIsZero(b *testing.B) {
	for _, n := range []int{512, 4096, 65536, 2 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				if !IsZero(p) {
					b.Fatal("not zero")
				}
			}
		})
	}
}
