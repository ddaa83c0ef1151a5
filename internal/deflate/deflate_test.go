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
	var e Encoder
	for name, most := range map[string]float64{"base64": 0.77, "letters": 0.29, "numbers": 0.58, "random": 1.001, "repeats": 0.03, "zeroes": 0.0012} {
		in := inputs()[name]
		out, _ := e.Append(nil, in, 1<<30)
		if n := float64(len(out)) / float64(len(in)); n > most {
			t.Errorf("%s: %.4f of the size", name, n)
		}
	}
}

// TestWindow: no match reaches back more than the window of readers.
func TestWindow(t *testing.T) {
	var e Encoder
	in := inputs()["repeats beyond the window"]
	if out, _ := e.Append(nil, in, 1<<30); len(out) < len(in) {
		t.Errorf("%d bytes for %d: the matches are farther away than %d", len(out), len(in), window)
	}
}

// TestDistances: the matches of every kind of data stay in the window, and some of one
// kind reach to its end.
func TestDistances(t *testing.T) {
	longest := 0
	for name, in := range inputs() {
		var e Encoder
		e.price(in)
		for i := 0; i < len(in); {
			i = e.parse(in, i)
			for _, m := range e.tokens {
				if m&matchFlag != 0 {
					longest = max(longest, m.distance())
				}
			}
		}
		if longest > 4096 { // what readers keep
			t.Fatalf("%s: a match at a distance of %d", name, longest)
		}
	}
	if longest < window*9/10 {
		t.Errorf("no match farther away than %d", longest)
	}
}

func FuzzRoundTrip(f *testing.F) {
	for _, in := range inputs() {
		f.Add(in[:min(len(in), 4096)])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var e Encoder
		for range 2 {
			out, ok := e.Append(nil, in, 1<<30)
			if !ok || !bytes.Equal(inflate(t, out), in) {
				t.Fatal("comes back otherwise")
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
