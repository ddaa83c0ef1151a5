package codec

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// frames compresses with zlib's encoding (0), which may go on behind the cluster, or as
// frames of zstd (1).
func frames(t *testing.T, compression uint8, parts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if compression == 0 {
		w, _ := flate.NewWriter(&b, 6)
		for _, p := range parts {
			_, _ = w.Write(p)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, p := range parts {
		out = w.EncodeAll(p, out)
	}
	return out
}

// TestDecodeLength: clusters of all sizes, in one frame and in two, with too many bytes and
// too few. Nothing is written behind the cluster.
func TestDecodeLength(t *testing.T) {
	sizes := []int{512, 64 << 10, maxSlackCluster, 2 * maxSlackCluster}
	if testing.Short() {
		sizes = sizes[:2]
	}
	for _, size := range sizes {
		for compression := range uint8(2) {
			data := make([]byte, size+zstdSlack+1)
			r := testkit.Rand(uint64(size))
			for i := range data {
				data[i] = byte(r.IntN(1 + r.IntN(9)))
			}
			k := New(int64(size), compression)
			p := bytes.Repeat([]byte{0xa5}, size+100)
			check := func(name string, enc []byte, want bool) {
				t.Helper()
				err := k.Decode(p[:size], enc)
				switch {
				case (err == nil) != want:
					t.Errorf("%d bytes, compression %d, %s: %v", size, compression, name, err)
				case want && !bytes.Equal(p[:size], data[:size]):
					t.Errorf("%d bytes, compression %d, %s: decoded otherwise", size, compression, name)
				case !bytes.Equal(p[size:], bytes.Repeat([]byte{0xa5}, 100)):
					t.Fatalf("%d bytes, compression %d, %s: bytes behind the cluster are changed", size, compression, name)
				}
			}
			for range 2 { // the second time with decoders that are in use
				check("whole", frames(t, compression, data[:size]), true)
				check("in two parts", frames(t, compression, data[:100], data[100:size]), true)
				check("with bytes behind", append(frames(t, compression, data[:size]), 0xff, 0xff, 0xff), true)
				check("a byte too few", frames(t, compression, data[:size-1]), false)
				// zlib's stream may go on; a frame of zstd has to end where the cluster does.
				for _, more := range []int{1, zstdSlack, zstdSlack + 1} {
					check("too long", frames(t, compression, data[:size+more]), compression == 0)
					check("too long in two parts", frames(t, compression, data[:200], data[200:size+more]), compression == 0)
				}
			}
		}
	}
}

// TestDecodeWindow: frames of an encoder that did not know how much was to come name its
// window, which can be much larger than the cluster.
func TestDecodeWindow(t *testing.T) {
	const size = 64 << 10
	data := make([]byte, size)
	testkit.Fill(testkit.Rand(1), data[:size/2])
	copy(data[size/2:], data[:size/2])
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(8<<20))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{data[:1000], data[1000:]} {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil { // its size is not known any more
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	enc := b.Bytes()
	const descriptor, window8M, window128M = 5, 13 << 3, 17 << 3 // RFC 8878, 3.1.1.1.2
	if enc[descriptor] != window8M {
		t.Fatalf("the frame has the window %#x", enc[descriptor])
	}
	for window, want := range map[byte]bool{window8M: true, window128M: true, window128M + 1: false} {
		enc[descriptor] = window
		p := make([]byte, size)
		if err := New(size, 1).Decode(p, enc); (err == nil) != want || want && !bytes.Equal(p, data) {
			t.Errorf("window %#x: %v", window, err)
		}
	}
}
