package safeio

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"runtime"
	"testing"
)

type memAt []byte

func (m memAt) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return bytes.NewReader(m).ReadAt(p, off)
}

func TestRead(t *testing.T) {
	src := make([]byte, 5<<20+3)
	for i := range src {
		src[i] = byte(i * 7)
	}
	for _, n := range []int64{0, 1, firstChunk, firstChunk + 1, int64(len(src))} {
		b, err := ReadAt(context.Background(), memAt(src), 0, n)
		if err != nil || !bytes.Equal(b, src[:n]) {
			t.Fatalf("ReadAt of %d bytes: %v", n, err)
		}
	}
	if b, err := ReadAt(context.Background(), memAt(src), 3, 5); err != nil || !bytes.Equal(b, src[3:8]) {
		t.Fatalf("ReadAt at 3: %v", err)
	}
}

func TestPromisesCostNothing(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, n := range []int64{11, 1 << 30, 1 << 40} {
		if _, err := ReadAt(context.Background(), memAt("0123456789"), 0, n); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("ReadAt of %d bytes: %v", n, err)
		}
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
		t.Fatalf("%d bytes reserved for ten", got)
	}
}

func TestImpossibleSizes(t *testing.T) {
	for _, c := range [][2]int64{{-1, 1}, {0, -1}, {math.MaxInt64, 2}} {
		if _, err := ReadAt(context.Background(), memAt(""), c[0], c[1]); !errors.Is(err, ErrSize) {
			t.Fatalf("%v: %v", c, err)
		}
	}
}
