package ondisk

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestHeaderRoundTrip(t *testing.T) {
	h := &Header{Version: 3, BackingFileOffset: 200, BackingFileSize: 5, ClusterBits: 16, Size: 1 << 40,
		L1Size: 7, L1TableOffset: 3 << 16, RefcountTableOffset: 1 << 16, RefcountTableClusters: 1,
		Incompatible: IncompatCompression, Compatible: CompatLazyRefcounts, Autoclear: AutoclearBitmaps,
		RefcountOrder: 4, HeaderLength: 120, CompressionType: CompressionZstd, Extra: []byte("12345678")}
	got, err := DecodeHeader(h.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Append(nil), h.Append(nil)) {
		t.Fatalf("got %+v, want %+v", got, h)
	}
	for n := range HeaderSizeV3 {
		if _, err := DecodeHeader(h.Append(nil)[:n]); err == nil {
			t.Fatalf("a header of %d bytes was accepted", n)
		}
	}
}

func TestRefcountWidths(t *testing.T) {
	for order := uint32(0); order <= 6; order++ {
		b := make([]byte, 512)
		n := 512 * 8 >> order
		want := make([]uint64, n)
		r := rand.New(rand.NewPCG(1, uint64(order)))
		for range 4 * n {
			i := r.IntN(n)
			want[i] = r.Uint64() & MaxRefcount(order)
			SetRefcount(b, i, order, want[i])
		}
		for i := range want {
			if got := GetRefcount(b, i, order); got != want[i] {
				t.Fatalf("order %d entry %d: got %d, want %d", order, i, got, want[i])
			}
		}
	}
}

func TestCompressedDescriptor(t *testing.T) {
	for bits := uint32(MinClusterBits); bits <= MaxClusterBits; bits++ {
		for _, off := range []int64{512, 513, 1023, 65536, MaxCompressedOffset(bits) - 1<<bits} {
			for _, n := range []int64{1, 2, 511, 512, 513, 1<<bits - 1} {
				if n >= 1<<bits {
					continue
				}
				c := DecodeCompressed(EncodeCompressed(off, n, bits), bits)
				end := (off + n + CompressedSector - 1) &^ (CompressedSector - 1)
				if c.Offset != off || c.Offset+c.Size != end {
					t.Fatalf("bits %d: %d bytes at %d decode as %+v, want the end %d", bits, n, off, c, end)
				}
			}
		}
	}
}
