package differential

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/cli/multicall"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

// spec is one combination of the options of a qcow2 image.
type spec struct {
	compat      string
	cluster     int64
	refcount    int
	extended    bool
	zstd        bool
	lazy        bool
	dataFile    bool
	dataFileRaw bool
	backing     string // format of the backing file, "" for none
	longer      bool   // the backing file is longer than the disk
	prealloc    string
	size        int64
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// pickSpec draws a combination that both programs accept.
func pickSpec(r *rand.Rand) spec {
	s := spec{compat: pick(r, "0.10", "1.1", "1.1", "1.1"), cluster: pick[int64](r, 512, 4<<10, 64<<10, 2<<20), refcount: 16, prealloc: "off"}
	if s.compat == "1.1" {
		s.refcount = pick(r, 1, 2, 4, 8, 16, 32, 64)
		s.extended = r.IntN(3) == 0 && s.cluster >= 16<<10
		s.zstd = r.IntN(2) == 0
		s.dataFile = r.IntN(4) == 0
		s.lazy = !s.dataFile && r.IntN(4) == 0
		s.dataFileRaw = s.dataFile && r.IntN(2) == 0
	}
	if !s.dataFileRaw && r.IntN(3) == 0 {
		s.backing = pick(r, "raw", "qcow2")
		s.longer = r.IntN(2) == 0
	}
	if s.backing == "" || s.extended {
		s.prealloc = pick(r, "off", "metadata", "falloc", "full")
	}
	if s.backing != "" && s.prealloc == "metadata" {
		s.prealloc = "off"
	}
	unit := map[int64]int64{512: 256 << 10, 4 << 10: 1 << 20, 64 << 10: 2 << 20, 2 << 20: 8 << 20}[s.cluster]
	s.size = unit + r.Int64N(unit)&^511
	return s
}

// String has no characters that options or file names could mistake.
func (s spec) String() string {
	out := fmt.Sprintf("%s cluster %d refcount %d size %d", s.compat, s.cluster, s.refcount, s.size)
	for _, x := range []struct {
		on   bool
		name string
	}{{s.extended, "extended_l2"}, {s.zstd, "zstd"}, {s.lazy, "lazy"}, {s.dataFile, "data_file"}, {s.dataFileRaw, "data_file_raw"},
		{s.backing != "", "backing " + s.backing}, {s.longer, "longer"}, {s.prealloc != "off", s.prealloc}} {
		if x.on {
			out += " " + x.name
		}
	}
	return out
}

// options are the creation options apart from those about the backing file.
func (s spec) options(dir string) opts.Dict {
	o := opts.Dict{"compat": s.compat, "cluster_size": fmt.Sprint(s.cluster), "preallocation": s.prealloc}
	if s.compat != "0.10" {
		o["refcount_bits"] = fmt.Sprint(s.refcount)
	}
	for _, x := range []struct {
		on         bool
		key, value string
	}{{s.extended, "extended_l2", "on"}, {s.zstd, "compression_type", "zstd"}, {s.lazy, "lazy_refcounts", "on"},
		{s.dataFile, "data_file", filepath.Join(dir, "data.raw")}, {s.dataFileRaw, "data_file_raw", "on"}} {
		if x.on {
			o[x.key] = x.value
		}
	}
	return o
}

// args are the options as a command line has them.
func (s spec) args(dir string) (out []string) {
	for k, v := range s.options(dir) {
		out = append(out, "-o", fmt.Sprintf("%s=%v", k, v))
	}
	if s.backing != "" {
		out = append(out, "-b", filepath.Join(dir, "base"), "-F", s.backing)
	}
	return out
}

// makeBase makes the backing file and returns what the disk above it reads as.
func (s spec) makeBase(t *testing.T, r *rand.Rand, dir string) *testkit.Model {
	t.Helper()
	m := testkit.NewModel(s.size)
	if s.backing == "" {
		return m
	}
	n := s.size * 5 / 8 &^ 511
	if s.longer {
		n = s.size * 3 / 2 &^ 511
	}
	content := make([]byte, n)
	testkit.FillDisk(r, content)
	base := filepath.Join(dir, "base")
	writeFile(t, base, content)
	if s.backing == "qcow2" {
		testkit.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", base, base+".new")
		if err := os.Rename(base+".new", base); err != nil {
			t.Fatal(err)
		}
	}
	m.Write(content[:min(n, s.size)], 0)
	return m
}

func writeFile(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// ourProgram runs our command line within this process.
func ourProgram(t *testing.T, args ...string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	code := multicall.Run(context.Background(), program.Streams{Stdin: strings.NewReader(""), Stdout: &out, Data: &out, Stderr: &errs, Screen: &errs}, append([]string{"qemu-img"}, args...))
	return outcome{out.String(), errs.String(), code}
}

// ours runs our command line, which must succeed and say nothing bad.
func ours(t *testing.T, args ...string) string {
	t.Helper()
	got := ourProgram(t, args...)
	if got.code != 0 || got.stderr != "" {
		t.Fatalf("%s: exit code %d\n%s%s", strings.Join(args, " "), got.code, got.stdout, got.stderr)
	}
	return got.stdout
}

// sameCommand runs one command line with both programs and returns the answer.
func sameCommand(t *testing.T, args ...string) outcome {
	t.Helper()
	stdout, stderr, code := testkit.Try(t, "qemu-img", args...)
	got := ourProgram(t, args...)
	if got.code != code || !sameOutput(got.stdout, stdout) || normal(got.stderr) != normal(stderr) {
		t.Fatalf("%s: exit code %d\n%s%s\nwant %d\n%s%s", strings.Join(args, " "), got.code, got.stdout, got.stderr, code, stdout, stderr)
	}
	return got
}

// checkBoth lets both programs check an image: neither finds anything, and they
// say the same.
func checkBoth(t *testing.T, path string) {
	t.Helper()
	if got := sameCommand(t, "check", "-f", "qcow2", "--output=json", path); got.code != 0 {
		t.Fatalf("check: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if got := sameCommand(t, "check", "-f", "qcow2", path); got.code != 0 || got.stderr != "" {
		t.Fatalf("check: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
}

// readByOriginal returns the whole disk as QEMU reads it.
func readByOriginal(t *testing.T, path string, args ...string) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "original.raw")
	testkit.Run(t, "qemu-img", append(append([]string{"convert", "-f", "qcow2", "-O", "raw"}, args...), path, raw)...)
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// library opens an image with our library.
func library(t *testing.T, path string, write bool) *block.Image {
	t.Helper()
	img, err := block.Open(context.Background(), block.NewRegistry(drivers.All()...), block.Source{Filename: path, Format: "qcow2"},
		block.OpenOptions{Write: write, Sharing: block.Sharing{Resize: write}, Unmap: true, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func closeLibrary(t *testing.T, img *block.Image) {
	t.Helper()
	if err := img.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func readLibrary(t *testing.T, img *block.Image) []byte {
	t.Helper()
	b := make([]byte, img.Size())
	if _, err := img.ReadAt(context.Background(), b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}
