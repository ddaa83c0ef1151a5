package codec

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	hexenc "encoding/hex"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestCompressFewValues: data without repeats in which few byte values are in use takes
// what its entropy asks for, with both compressors, and comes back.
func TestCompressFewValues(t *testing.T) {
	const size = 64 << 10
	random := make([]byte, size)
	flat := testkit.Rand(2)
	for i := range random {
		random[i] = byte(flat.Uint32())
	}
	skewed := make([]byte, size)
	for i := range skewed {
		skewed[i] = random[i] & random[(i*7+1)%size]
	}
	var numbers []byte
	for sum := uint32(0); len(numbers) < size; sum += uint32(flat.IntN(200)) {
		numbers = binary.LittleEndian.AppendUint32(numbers, sum)
	}
	for name, c := range map[string]struct {
		data []byte
		most float64 // of the size
	}{
		"base64":  {[]byte(base64.StdEncoding.EncodeToString(random))[:size], 0.77},
		"hex":     {[]byte(hexenc.EncodeToString(random))[:size], 0.535},
		"skewed":  {skewed, 0.83},
		"numbers": {numbers, 0.82},
		"random":  {random, 1},
		"repeats": {bytes.Repeat(random[:1000], size/1000+1)[:size], 0.05},
	} {
		for _, compression := range []uint8{0, 1} {
			k := New(size, compression)
			before := []byte("before")
			enc, ok, err := k.Encode(before, c.data)
			if err != nil || ok != (name != "random") {
				t.Fatalf("%s, compression %d: %v %v", name, compression, ok, err)
			}
			if !ok {
				continue
			}
			if !bytes.HasPrefix(enc, before) {
				t.Fatalf("%s, compression %d: what came before is gone", name, compression)
			}
			enc = enc[len(before):]
			most := c.most
			if name == "numbers" && compression == 0 {
				most = 0.57 // with matches of three bytes, which zstd makes little of
			}
			if n := float64(len(enc)) / size; n > most {
				t.Errorf("%s, compression %d: %.3f of the size", name, compression, n)
			}
			p := make([]byte, size)
			if err := k.Decode(p, append(enc, 1, 2, 3)); err != nil || !bytes.Equal(p, c.data) {
				t.Errorf("%s, compression %d: decoded otherwise, %v", name, compression, err)
			}
		}
	}
}

// TestCompressSizes: clusters of every size come back from both compressors, and those that do
// not get smaller are left to the caller.
func TestCompressSizes(t *testing.T) {
	for _, size := range []int64{512, 64 << 10, 256 << 10, 512 << 10, 2 << 20} {
		random := make([]byte, size)
		testkit.Fill(testkit.Rand(3), random)
		half := bytes.Clone(random)
		clear(half[size/4 : size/4*3])
		for _, compression := range []uint8{0, 1} {
			k := New(size, compression)
			for range 2 {
				if enc, ok, err := k.Encode([]byte("before"), random); ok || err != nil || string(enc) != "before" {
					t.Errorf("%d bytes, compression %d: random bytes take %d, %v", size, compression, len(enc), err)
				}
				enc, ok, err := k.Encode(nil, half)
				if !ok || err != nil || int64(len(enc)) > size/2+size/16+16 {
					t.Fatalf("%d bytes, compression %d: half of them zeroes take %d, %v", size, compression, len(enc), err)
				}
				p := make([]byte, size)
				if err := k.Decode(p, enc); err != nil || !bytes.Equal(p, half) {
					t.Errorf("%d bytes, compression %d: decoded otherwise, %v", size, compression, err)
				}
			}
		}
	}
}
