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
