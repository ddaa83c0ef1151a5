package inflate

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"errors"
	"io"
	"os"
	"testing"

	kflate "github.com/klauspost/compress/flate"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// inputs are data of many kinds.
func inputs() map[string][]byte {
	out := map[string][]byte{"empty": nil, "one": {7}, "zeroes": make([]byte, 100000), "text": bytes.Repeat([]byte("one two three four, "), 3000)}
	for seed := range uint64(8) {
		r := testkit.Rand(seed)
		b := make([]byte, r.IntN(200000))
		switch seed % 4 {
		case 0:
			testkit.Fill(r, b)
		case 1:
			testkit.FillDisk(r, b)
		case 2: // few values
			for i := range b {
				b[i] = byte(r.IntN(1 + r.IntN(5)))
			}
		default: // short repeats at small distances, and a long tail of values
			for i := range b {
				x, y := byte(r.IntN(256)), byte(r.IntN(256))
				b[i] = x & y & byte(r.IntN(256))
				if d := 1 + r.IntN(12); i > 300 && r.IntN(20) == 0 {
					for k := i; k < min(len(b), i+r.IntN(300)); k++ {
						b[k] = b[k-d]
					}
				}
			}
		}
		out[string(rune('a'+seed))] = b
	}
	return out
}

// TestDecode: what encoders of all levels make, into room that fits, with bytes behind.
func TestDecode(t *testing.T) {
	testkit.NoRace(t, "one goroutine")
	var d Decoder
	for name, data := range inputs() {
		for level := -2; level <= 9; level++ {
			if !testkit.Long() && level%3 != 0 {
				continue
			}
			var b, k bytes.Buffer
			w, err := flate.NewWriter(&b, level)
			if err != nil {
				t.Fatal(err)
			}
			kw, err := kflate.NewWriter(&k, level)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range []io.WriteCloser{w, kw} {
				if _, err := w.Write(data); err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
			}
			for _, enc := range [][]byte{b.Bytes(), k.Bytes()} {
				for _, room := range []int{0, 1, 1000} {
					p := make([]byte, len(data)+room)
					n, used, err := d.Inflate(p, append(bytes.Clone(enc), bytes.Repeat([]byte{0xa5}, room)...))
					if err != nil || n != len(data) || used != len(enc) || !bytes.Equal(p[:n], data) {
						t.Fatalf("%s, level %d: %d of %d bytes, %d of %d used, %v", name, level, n, len(data), used, len(enc), err)
					}
				}
				if len(data) > 0 {
					for _, n := range []int{0, len(data) / 2, len(data) - 1} {
						p := make([]byte, n)
						if got, _, err := d.Inflate(p, enc); !errors.Is(err, ErrLong) || got != n || !bytes.Equal(p, data[:n]) {
							t.Fatalf("%s, level %d: %d bytes into %d: %v", name, level, got, n, err)
						}
						if err := d.Fill(p, enc[:len(enc)-1]); err != nil && n < len(data)/2 {
							t.Fatalf("%s, level %d: the first %d bytes: %v", name, level, n, err)
						}
					}
				}
				if err := d.Fill(make([]byte, len(data)+1), enc); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("%s, level %d: a byte more than there is: %v", name, level, err)
				}
				for cut := 1; cut < len(enc); cut += 1 + len(enc)/15 {
					if _, _, err := d.Inflate(make([]byte, len(data)), enc[:len(enc)-cut]); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrLong) {
						t.Fatalf("%s, level %d: without %d bytes at the end: %v", name, level, cut, err)
					}
				}
			}
		}
	}
}

func TestZlib(t *testing.T) {
	var d Decoder
	data := inputs()["text"]
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	enc := b.Bytes()
	p := make([]byte, len(data))
	if n, used, err := d.Zlib(p, append(bytes.Clone(enc), 1, 2, 3)); err != nil || n != len(data) || used != len(enc) || !bytes.Equal(p, data) {
		t.Errorf("%d, %d, %v", n, used, err)
	}
	for i, want := range map[int]error{0: ErrHeader, 1: ErrHeader, len(enc) - 1: ErrChecksum} {
		bad := bytes.Clone(enc)
		bad[i] ^= 1
		if _, _, err := d.Zlib(p, bad); !errors.Is(err, want) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
	for _, n := range []int{0, 1, 2, len(enc) - 1, len(enc) - 4} {
		if _, _, err := d.Zlib(p, enc[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// TestCodes: codes that are none.
func TestCodes(t *testing.T) {
	var table [literalEntries]uint32
	for _, c := range []struct {
		lens []uint8
		want bool
	}{
		{[]uint8{1, 1}, true}, {[]uint8{1, 2, 2}, true}, {[]uint8{1}, true}, {[]uint8{0, 0}, true},
		{[]uint8{1, 1, 1}, false}, {[]uint8{2}, false}, {[]uint8{1, 2}, false}, {[]uint8{2, 2, 2}, false}, {[]uint8{15, 15}, false},
		{[]uint8{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15}, true},
	} {
		if got := build(table[:], c.lens, distanceBits, distanceEntry); got != c.want {
			t.Errorf("%v: %v", c.lens, got)
		}
	}
}

// FuzzDecode decodes anything as Go's library does.
func FuzzDecode(f *testing.F) {
	for _, data := range inputs() {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, 6)
		_, _ = w.Write(data[:min(len(data), 5000)])
		_ = w.Close()
		f.Add(b.Bytes())
	}
	var d Decoder
	f.Fuzz(func(t *testing.T, enc []byte) {
		const room = 100000
		p := make([]byte, room)
		n, _, err := d.Inflate(p, enc)
		want, werr := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(enc)), room+1))
		if len(want) > room {
			if !errors.Is(err, ErrLong) && err == nil {
				t.Errorf("more than %d bytes: %v", room, err)
			}
			return
		}
		if (err == nil) != (werr == nil) {
			t.Errorf("%v, want %v", err, werr)
		}
		if err == nil && !bytes.Equal(p[:n], want) {
			t.Errorf("%d bytes, want %d", n, len(want))
		}
	})
}

func BenchmarkInflate(b *testing.B) {
	// A part of a program is what disks are full of.
	name, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	data = data[len(data)/4:][:64<<10]
	var enc bytes.Buffer
	w, _ := flate.NewWriter(&enc, 6)
	_, _ = w.Write(data)
	_ = w.Close()
	p := make([]byte, len(data))
	b.Run("this", func(b *testing.B) {
		var d Decoder
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, _, err := d.Inflate(p, enc.Bytes()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("klauspost", func(b *testing.B) {
		r := kflate.NewReader(bytes.NewReader(enc.Bytes()))
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			_ = r.(kflate.Resetter).Reset(bytes.NewReader(enc.Bytes()), nil)
			if _, err := io.ReadFull(r, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}
