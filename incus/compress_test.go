package incus

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/internal/xz"
)

// chunks writes src in pieces as a stream of small chunks of xz.
func chunks(t *testing.T, w io.Writer, src []byte) error {
	t.Helper()
	const size = 16 << 10
	c, err := newChunked(t.Context(), w, size, xzMemory(size, size), func() (chunkPacker, error) {
		e := xz.NewEncoder()
		return func(dst, src []byte) ([]byte, error) {
			out, _ := e.Append(dst, src, size, 2*size)
			return out, nil
		}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for len(src) > 0 && err == nil {
		n := min(len(src), 5000)
		_, err = c.Write(src[:n])
		src = src[n:]
	}
	return errors.Join(err, c.Close())
}

// TestChunksAreInOrder: whatever the number of processors, the same streams come in the
// same order, though buffers are used again.
func TestChunksAreInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	src := make([]byte, 500_000)
	for i := range src {
		src[i] = byte(r.IntN(1 + i/30_000)) // some parts take longer
	}
	var first []byte
	for _, processors := range []int{1, 2, 8} {
		old := runtime.GOMAXPROCS(processors)
		var packed bytes.Buffer
		err := chunks(t, &packed, src)
		runtime.GOMAXPROCS(old)
		if err != nil {
			t.Fatal(err)
		}
		z, _, err := fstree.Decompress(bytes.NewReader(packed.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, src) {
			t.Fatalf("%d processors: %d of %d bytes come back: %v", processors, len(got), len(src), err)
		}
		if first == nil {
			first = packed.Bytes()
		}
		if !bytes.Equal(packed.Bytes(), first) {
			t.Errorf("%d processors make other bytes than one", processors)
		}
	}
}

// fullWriter takes some bytes, and no more.
type fullWriter int

var errFull = errors.New("full")

func (f *fullWriter) Write(p []byte) (int, error) {
	if int(*f) < len(p) {
		return 0, errFull
	}
	*f -= fullWriter(len(p))
	return len(p), nil
}

// TestChunksEndWithAnError: what cannot be written ends the stream with that error.
func TestChunksEndWithAnError(t *testing.T) {
	room := fullWriter(3000)
	if err := chunks(t, &room, bytes.Repeat([]byte("some text, over and over. "), 40_000)); !errors.Is(err, errFull) {
		t.Errorf("%v, want %v", err, errFull)
	}
}

// TestXZMemory: two processors compress at a time within what archives may take.
func TestXZMemory(t *testing.T) {
	if n := int64(chunksMemory) / xzMemory(xzChunk, xz.Window); n != 2 {
		t.Errorf("%d workers", n)
	}
	z, err := newCompressor(context.Background(), io.Discard, Compression{Method: "xz"})
	if err != nil {
		t.Fatal(err)
	}
	if c := z.(*chunked); c.size != xzChunk {
		t.Errorf("chunks of %d bytes", c.size)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
}
