package ops

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestNextDataFindsEveryByte writes what nextData finds to zeroes, and compares.
func TestNextDataFindsEveryByte(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		p := make([]byte, 1+r.IntN(300<<10))
		for range r.IntN(6) {
			p[r.IntN(len(p))] = byte(1 + r.IntN(255))
		}
		got := make([]byte, len(p))
		written, requests := 0, 0
		for at := 0; at < len(p); {
			skip, n := nextData(p[at:])
			if skip+n == 0 {
				t.Fatalf("nothing found at %d of %d", at, len(p))
			}
			copy(got[at+skip:at+skip+n], p[at+skip:])
			at += skip + n
			written += n
			if n > 0 {
				requests++
			}
		}
		if !bytes.Equal(got, p) {
			t.Fatal("something was left out")
		}
		if written > requests*zeroPage+(6-1)*zeroGap || requests > 6 {
			t.Fatalf("%d bytes in %d requests", written, requests)
		}
	}
}

// TestSameDataGivesUp: a base that has other data than the overlay is no longer looked at.
func TestSameDataGivesUp(t *testing.T) {
	var s sameData
	if s.looked(sameTrial-1, 0); !s.worthLooking() {
		t.Error("no trial")
	}
	if s.looked(1, 0); s.worthLooking() {
		t.Error("nothing was the same, and it goes on")
	}
	var half sameData
	if half.looked(sameTrial, sameTrial/2); !half.worthLooking() {
		t.Error("half of it was the same, and it ends")
	}
}
