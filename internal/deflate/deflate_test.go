package deflate

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"testing"

	kflate "github.com/klauspost/compress/flate"

	whole "github.com/cowl-disk/cowl/internal/inflate"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// inputs are data of many kinds.
func inputs() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 64<<10)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	var numbers, mixed []byte
	sum := uint32(0)
	for range 16 << 10 {
		sum += uint32(r.IntN(200))
		numbers = binary.LittleEndian.AppendUint32(numbers, sum)
	}
	for len(mixed) < 100<<10 {
		at, n := r.IntN(len(random)-300), r.IntN(300)
		if k := r.IntN(5000); r.IntN(3) > 0 && k < len(mixed) {
			at = len(mixed) - 1 - k
			mixed = append(mixed, mixed[at:min(len(mixed), at+n)]...)
			continue
		}
		mixed = append(mixed, random[at:at+n/8]...)
	}
	// Counts that ask for codes of more than 15 bits.
	var skewed []byte
	for i, a, b := 0, 1, 1; i < 24; i, a, b = i+1, b, a+b {
		skewed = append(skewed, bytes.Repeat([]byte{byte(i * 7)}, a)...)
	}
	r.Shuffle(len(skewed), func(i, j int) { skewed[i], skewed[j] = skewed[j], skewed[i] })
	// Repeats at distances around 64 KiB, which positions are kept modulo of.
	var wide []byte
	for i := range 5 {
		wide = append(append(wide, random[:30000]...), mixed[i*100:35000+i*150]...)
	}
	// Four letters in no order: every match is longer than the letters it stands for.
	letters := make([]byte, 64<<10)
	for i := range letters {
		letters[i] = "ACGT"[r.IntN(4)]
	}
	return map[string][]byte{"wide": wide, "letters": letters,
		"empty": nil, "one byte": {7}, "two bytes": {7, 7}, "zeroes": make([]byte, 2<<20), "random": random,
		"random, longer": append(append([]byte(nil), random...), random...), "base64": []byte(base64.StdEncoding.EncodeToString(random)),
		"numbers": numbers, "mixed": mixed, "skewed": skewed, "repeats": bytes.Repeat(random[:700], 90),
		"repeats beyond the window": bytes.Repeat(random[:5000], 10),
	}
}

func inflate(t testing.TB, p []byte) []byte {
	t.Helper()
	out, err := io.ReadAll(flate.NewReader(bytes.NewReader(p)))
	if err != nil {
		t.Fatal(err)
	}
	if testing.Short() {
		return out
	}
	// Other decoders agree.
	other, err := io.ReadAll(kflate.NewReader(bytes.NewReader(p)))
	if err != nil || !bytes.Equal(other, out) {
		t.Fatalf("klauspost's decoder: %d bytes, not %d, %v", len(other), len(out), err)
	}
	var d whole.Decoder
	other = make([]byte, len(out))
	if n, used, err := d.Inflate(other, p); err != nil || n != len(out) || used != len(p) || !bytes.Equal(other, out) {
		t.Fatalf("internal/inflate: %d of %d bytes, %d of %d used, %v", n, len(out), used, len(p), err)
	}
	return out
}

// TestRoundTrip compresses with one encoder, over and over.
func TestRoundTrip(t *testing.T) {
	testkit.NoRace(t, "one goroutine")
	var e Encoder
	for range 2 {
		for name, in := range inputs() {
			out, ok := e.Append([]byte("abc"), in, 1<<30)
			if !ok || string(out[:3]) != "abc" {
				t.Fatalf("%s: %v", name, ok)
			}
			if got := inflate(t, out[3:]); !bytes.Equal(got, in) {
				t.Errorf("%s: comes back otherwise", name)
			}
			if short, ok := e.Append(nil, in, len(out)-4); ok || len(short) != 0 {
				t.Errorf("%s: more than the limit", name)
			}
			if exact, ok := e.Append(nil, in, len(out)-3); !ok || !bytes.Equal(exact, out[3:]) {
				t.Errorf("%s: not within the limit, or otherwise the second time", name)
			}
		}
	}
}

// TestHasty compresses buffers of all sizes in turns, most of them small, with an encoder that is in haste.
func TestHasty(t *testing.T) {
	testkit.NoRace(t, "one goroutine")
	used := Encoder{Hasty: true}
	var patient Encoder
	r := rand.New(rand.NewPCG(5, 6))
	sum, least := 0, 0
	for name, in := range inputs() {
		for range testkit.Count(100) {
			n := min(len(in), r.IntN(1<<(1+r.IntN(17))))
			part := in[r.IntN(len(in)-n+1):][:n]
			out, ok := used.Append(nil, part, 1<<30)
			if !ok || !bytes.Equal(inflate(t, out), part) {
				t.Fatalf("%s, %d bytes: comes back otherwise", name, n)
			}
			fresh := Encoder{Hasty: true}
			if want, _ := fresh.Append(nil, part, 1<<30); !bytes.Equal(out, want) {
				t.Fatalf("%s, %d bytes: what was compressed before shows", name, n)
			}
		}
		for ; len(in) >= 4096; in = in[4096:] {
			out, _ := used.Append(nil, in[:4096], 1<<30)
			sum += len(out)
			out, _ = patient.Append(nil, in[:4096], 1<<30)
			least += len(out)
		}
	}
	if sum > least*104/100 {
		t.Errorf("%d bytes in haste, else %d", sum, least)
	}
}

// TestSameEachTime: what an encoder compressed before does not show.
func TestSameEachTime(t *testing.T) {
	var used Encoder
	all := inputs()
	for range 2 {
		for name, in := range all {
			var e Encoder
			want, _ := e.Append(nil, in, 1<<30)
			if got, _ := used.Append(nil, in, 1<<30); !bytes.Equal(got, want) {
				t.Errorf("%s: compressed otherwise", name)
			}
		}
	}
}

// TestRatio holds what each kind of data takes.
func TestRatio(t *testing.T) {
	testkit.NoRace(t, "one goroutine")
	var e Encoder
	for name, most := range map[string]float64{"base64": 0.77, "letters": 0.29, "numbers": 0.58, "random": 1.001, "repeats": 0.03, "zeroes": 0.0012} {
		in := inputs()[name]
		out, _ := e.Append(nil, in, 1<<30)
		if n := float64(len(out)) / float64(len(in)); n > most {
			t.Errorf("%s: %.4f of the size", name, n)
		}
	}
}

// reach fails if a reader cannot decode src that fills a buffer of piece bytes after the
// other and keeps window bytes of the ones before. It returns the longest distance.
func reach(t *testing.T, e *Encoder, src []byte, careful bool) (longest int) {
	t.Helper()
	e.reset(src)
	if careful && !e.careful {
		e.careful = true
		e.clear()
	}
	for i := 0; i < len(src); {
		at := i
		i = e.parse(src, i)
		for _, s := range e.sequences {
			at += int(s.literals)
			d := int(s.distance) + 1
			longest = max(longest, d)
			for range s.length {
				if first := at &^ (32<<10 - 1); at-d < max(0, first-4096) {
					t.Fatalf("the byte at %d comes from %d", at, at-d)
				}
				at++
			}
		}
		if at > i {
			t.Fatalf("a block of %d bytes has %d", i, at)
		}
	}
	return longest
}

// TestReach: matches of every kind of data are within reach of readers, and some go as far
// as they may.
func TestReach(t *testing.T) {
	var e Encoder
	quick, careful := 0, 0
	for _, in := range inputs() {
		reach(t, &e, in, false)
		reach(t, &e, in, true)
	}
	// Matches of all distances and lengths around the ends of pieces.
	r := rand.New(rand.NewPCG(3, 4))
	for range testkit.Count(20) {
		in := make([]byte, 0, 140<<10)
		for len(in) < 130<<10 {
			if n := 3 + r.IntN(2000); r.IntN(4) > 0 && len(in) > 10 {
				at := len(in) - 1 - r.IntN(min(len(in)-1, 1+1<<r.IntN(17)))
				for range n {
					in = append(in, in[at])
					at++
				}
			}
			for range r.IntN(40) {
				in = append(in, byte(r.Uint32()))
			}
		}
		quick = max(quick, reach(t, &e, in, false))
		if e.careful {
			t.Error("parsed with care")
		}
		careful = max(careful, reach(t, &e, in, true))
		if out, ok := e.Append(nil, in, 1<<30); !ok || !bytes.Equal(inflate(t, out), in) {
			t.Fatal("comes back otherwise")
		}
	}
	for _, n := range []int{quick, careful} {
		if n <= 32000 || n > 32<<10 {
			t.Errorf("the longest distance is %d", n)
		}
	}
}

func FuzzRoundTrip(f *testing.F) {
	for _, in := range inputs() {
		f.Add(in[:min(len(in), 4096)])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, e := range []*Encoder{{}, {Hasty: true}} {
			for range 2 {
				out, ok := e.Append(nil, in, 1<<30)
				if !ok || !bytes.Equal(inflate(t, out), in) {
					t.Fatal("comes back otherwise")
				}
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, name := range []string{"mixed", "base64", "numbers", "random"} {
		b.Run(name, func(b *testing.B) {
			var e Encoder
			in := inputs()[name]
			b.SetBytes(int64(len(in)))
			var out []byte
			for b.Loop() {
				out, _ = e.Append(out[:0], in, 1<<30)
			}
		})
	}
}
