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
	for _, n := range []int{0, 1, 4095, 8192, 1 << 20} {
		src := sample(n)
		out, ok, err := Append([]byte("kept"), src, max(n, 4096), n+1000)
		if err != nil || !ok || string(out[:4]) != "kept" {
			t.Fatalf("%d bytes: %v %v", n, ok, err)
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
	if out, ok, err := Append(nil, src, 16384, len(src)-1); ok || err != nil || len(out) != 0 {
		t.Fatalf("%d bytes %v %v", len(out), ok, err)
	}
}

func TestReadsXZ(t *testing.T) {
	xz := testkit.Tool(t, "xz")
	src := sample(100000)
	for _, args := range [][]string{{"-1"}, {"-6"}, {"--check=crc32"}, {"--check=none"}, {"--check=sha256"}, {"-T2", "--block-size=32768"}} {
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
		out, _, _ := Append(nil, sample(n), 8192, 20000)
		f.Add(out)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		io.Copy(io.Discard, io.LimitReader(NewReader(bytes.NewReader(b), 1<<20), 1<<24))
	})
}
