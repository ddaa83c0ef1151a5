package xz

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ulikunitz/xz/lzma"

	"github.com/cowl-disk/cowl/internal/testkit"
)

func sample(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = "etaoin shrdlu"[rng.IntN(13)]
	}
	return b
}

func TestAppendIsReadByXZ(t *testing.T) {
	testkit.NoRace(t, "one goroutine")
	e := NewEncoder()
	for _, n := range []int{0, 1, 4095, 8192, 300000} {
		src := sample(n)
		out, ok := e.Append([]byte("kept"), src, max(n, 4096), n+1000)
		if !ok || string(out[:4]) != "kept" {
			t.Fatalf("%d bytes: %v", n, ok)
		}
		got, err := io.ReadAll(NewReader(bytes.NewReader(out[4:]), 2<<20))
		if err != nil || !bytes.Equal(got, src) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		path := filepath.Join(t.TempDir(), "a.xz")
		if err := os.WriteFile(path, out[4:], 0o600); err != nil {
			t.Fatal(err)
		}
		if text := testkit.Run(t, "xz", "-dc", path); text != string(src) {
			t.Fatalf("xz reads something else of %d bytes", n)
		}
	}
}

func TestAppendGivesUp(t *testing.T) {
	src := make([]byte, 10000)
	for i := range src {
		src[i] = byte(rand.Uint32())
	}
	if out, ok := NewEncoder().Append(nil, src, 16384, len(src)-1); ok || len(out) != 0 {
		t.Fatalf("%d bytes %v", len(out), ok)
	}
}

func TestReadsXZ(t *testing.T) {
	testkit.NoRace(t, "one goroutine")
	xz := testkit.Tool(t, "xz")
	src := sample(30000)
	for _, args := range [][]string{{"-1"}, {"-6"}, {"--check=crc32"}, {"--check=none"}, {"--check=sha256"}, {"-T2", "--block-size=8192"}} {
		cmd := exec.Command(xz, append(args, "-c")...)
		cmd.Stdin = bytes.NewReader(src)
		packed, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		twice := append(append(bytes.Clone(packed), 0, 0, 0, 0), packed...)
		got, err := io.ReadAll(NewReader(bytes.NewReader(twice), 8<<20))
		if err != nil || !bytes.Equal(got, append(bytes.Clone(src), src...)) {
			t.Errorf("%v: %v", args, err)
		}
		if _, err := io.ReadAll(NewReader(bytes.NewReader(packed), 4096)); !errors.Is(err, ErrDictionary) {
			t.Errorf("%v with a small bound: %v", args, err)
		}
		for _, cut := range []int{0, 5, 20, len(packed) / 2, len(packed) - 1} {
			if _, err := io.ReadAll(NewReader(bytes.NewReader(packed[:cut]), 8<<20)); !errors.Is(err, ErrFormat) {
				t.Errorf("%v cut at %d: %v", args, cut, err)
			}
		}
		if args[0] == "--check=none" {
			continue
		}
		for at := 0; at < len(packed); at += 1 + len(packed)/50 {
			bad := bytes.Clone(packed)
			bad[at] ^= 0x10
			if _, err := io.ReadAll(NewReader(bytes.NewReader(bad), 8<<20)); err == nil {
				t.Errorf("%v: a flipped bit at %d of %d is not seen", args, at, len(packed))
			}
		}
	}
}

func FuzzReader(f *testing.F) {
	for _, n := range []int{0, 10, 9000} {
		out, _ := NewEncoder().Append(nil, sample(n), 8192, 20000)
		f.Add(out)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		io.Copy(io.Discard, io.LimitReader(NewReader(bytes.NewReader(b), 1<<20), 1<<24))
	})
}

// mixed is a buffer of parts that compress well, badly and not at all.
func mixed(seed uint64, n int) (b []byte) {
	r := rand.New(rand.NewPCG(seed, 3))
	for len(b) < n {
		size := 1 + r.IntN(1+n/3)
		switch r.IntN(6) {
		case 0:
			for range size {
				b = append(b, byte(r.Uint32()))
			}
		case 1:
			b = append(b, make([]byte, size)...)
		case 2:
			b = append(b, sample(size)...)
		case 3:
			if len(b) > 0 { // what was there, changed now and then
				from := r.IntN(len(b))
				for i := range min(size, len(b)-from) {
					b = append(b, b[from+i])
					if r.IntN(50) == 0 {
						b[len(b)-1]++
					}
				}
			}
		case 4: // records
			for i := range size / 16 {
				b = append(b, byte(i), byte(i>>8), 0, 0, 1, 2, 3, 4, byte(r.IntN(4)), 0, 0, 0, 'a', 'b', byte(r.IntN(20)), 0)
			}
		default:
			b = append(b, bytes.Repeat([]byte{byte(r.Uint32()), 'x', byte(r.Uint32())}, size/3+1)...)
		}
	}
	return b[:n]
}

// TestEncoderRandom: what the encoder writes is read again, and it does not matter what
// it has compressed before.
func TestEncoderRandom(t *testing.T) {
	testkit.NoRace(t, "one goroutine")
	reused := NewEncoder()
	for seed := range uint64(300) {
		if !testkit.Sample(int(seed), 15) {
			continue
		}
		src := mixed(seed, 1+int(seed*seed*7)%100000)
		out, ok := reused.Append(nil, src, max(4096, len(src)), 2*len(src)+1000)
		again, _ := NewEncoder().Append(nil, src, max(4096, len(src)), 2*len(src)+1000)
		if !ok || !bytes.Equal(out, again) {
			t.Fatalf("seed %d: %v, or other bytes of a used encoder", seed, ok)
		}
		got, err := io.ReadAll(NewReader(bytes.NewReader(out), 1<<20))
		if err != nil || !bytes.Equal(got, src) {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if limit := len(src) + len(src)/1000 + 200; len(out) > limit {
			t.Errorf("seed %d: %d bytes of %d", seed, len(out), len(src))
		}
		alone, ok := reused.AppendAlone(nil, src, max(4096, len(src)), 2*len(src)+1000)
		if !ok {
			t.Fatalf("seed %d: no lzma", seed)
		}
		r, err := lzma.NewReader(bytes.NewReader(alone))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, src) {
			t.Fatalf("seed %d: lzma: %v", seed, err)
		}
	}
}

// TestRatio: no more than 5 % larger than xz makes of the same, at its usual level.
func TestRatio(t *testing.T) {
	testkit.NoRace(t, "one goroutine")
	xz := testkit.Tool(t, "xz")
	for name, src := range map[string][]byte{"text": corpus(t), "mixed": mixed(11, 1<<18)} {
		cmd := exec.Command(xz, "-6", "--check=crc32", "-c")
		cmd.Stdin = bytes.NewReader(src)
		theirs, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		out, _ := NewEncoder().Append(nil, src, 1<<20, len(src))
		t.Logf("%s: %d bytes, xz %d", name, len(out), len(theirs))
		if len(out) > len(theirs)*105/100 {
			t.Errorf("%s: %d bytes, xz makes %d", name, len(out), len(theirs))
		}
	}
}

const corpusSize = 384 << 10

// corpus is some of the sources of this module and its tests.
func corpus(t testing.TB) (b []byte) {
	err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".go" && len(b) < corpusSize {
			text, err := os.ReadFile(path)
			b = append(b, text...)
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b[:min(len(b), corpusSize)]
}

// TestWindow: a buffer may be longer than its dictionary. Matches reach back as far as that
// and no further.
func TestWindow(t *testing.T) {
	testkit.NoRace(t, "one goroutine")
	r := rand.New(rand.NewPCG(5, 6))
	part := make([]byte, 1000)
	for i := range part {
		part[i] = byte(r.Uint32())
	}
	var prefixes []byte // what is remembered of three bytes is here, not in the part
	for i := range len(part) - 2 {
		prefixes = append(append(prefixes, part[i:i+3]...), 'p')
	}
	e := NewEncoder()
	for _, between := range [][]byte{nil, prefixes} {
		sizes := map[int]int{}
		for _, distance := range []int{Window - 1, Window, Window + 1} {
			src := append(bytes.Clone(part), make([]byte, distance-len(part)-len(between))...)
			src = append(append(append(src, between...), part...), bytes.Repeat([]byte{'x'}, 1000)...)
			out, ok := e.Append(nil, src, Window, len(src))
			if !ok {
				t.Fatalf("distance %d: not compressed", distance)
			}
			got, err := io.ReadAll(NewReader(bytes.NewReader(out), Window))
			if err != nil || !bytes.Equal(got, src) {
				t.Fatalf("distance %d: %v", distance, err)
			}
			sizes[distance] = len(out)
		}
		if near, far := sizes[Window-1], sizes[Window+1]; far-near < len(part)/3 {
			t.Errorf("%d bytes where %d are repeated within the window, %d beyond it", near, len(part), far)
		}
	}
}

func FuzzEncoder(f *testing.F) {
	f.Add(mixed(1, 3000))
	e := NewEncoder()
	f.Fuzz(func(t *testing.T, src []byte) {
		out, ok := e.Append(nil, src, 1<<20, 2*len(src)+1000)
		got, err := io.ReadAll(NewReader(bytes.NewReader(out), 1<<20))
		if !ok || err != nil || !bytes.Equal(got, src) {
			t.Fatalf("%v %v", ok, err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	src := corpus(b)
	e := NewEncoder()
	var out []byte
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		out, _ = e.Append(out[:0], src, 1<<20, len(src))
	}
	b.ReportMetric(float64(len(out))/float64(len(src)), "ratio")
}
