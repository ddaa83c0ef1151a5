package block_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
)

// rawFile makes a raw image with content.
func rawFile(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func randomBytes(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// openToy opens a toy image of size bytes over the raw file backing ("" for none).
func openToy(t *testing.T, d *toy) (*block.Image, *block.Registry) {
	t.Helper()
	reg := block.NewRegistry(raw.New(), file.New(), d)
	f := rawFile(t, t.TempDir(), "toy", nil)
	img, err := block.Open(t.Context(), reg, block.Source{Filename: f, Format: "toy"},
		block.OpenOptions{Write: true, Unmap: true, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := img.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return img, reg
}

func readAll(t *testing.T, img *block.Image) []byte {
	t.Helper()
	p, err := io.ReadAll(img.Reader(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestModel runs random operations on a format with a backing file that is
// shorter than the disk, and compares with a plain byte slice.
func TestModel(t *testing.T) {
	for _, serial := range []bool{false, true} {
		const size = 40*toyCluster + 512
		base := randomBytes(7, 17*toyCluster+100)
		dir := t.TempDir()
		d := &toy{size: size, backing: rawFile(t, dir, "base", base), serial: serial}
		img, _ := openToy(t, d)
		model := make([]byte, size)
		copy(model, base)
		r := rand.New(rand.NewPCG(1, 2))
		for i := range 600 {
			off := r.Int64N(size)
			n := 1 + r.Int64N(min(size-off, 5*toyCluster))
			switch r.IntN(4) {
			case 0, 1:
				p := randomBytes(uint64(i), int(n))
				if _, err := img.WriteAt(t.Context(), p, off); err != nil {
					t.Fatal(err)
				}
				copy(model[off:], p)
			case 2:
				if err := img.WriteZeroes(t.Context(), off, n, driver.ZeroMayUnmap); err != nil {
					t.Fatal(err)
				}
				clear(model[off : off+n])
			case 3:
				got := make([]byte, n)
				if _, err := img.ReadAt(t.Context(), got, off); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, model[off:off+n]) {
					t.Fatalf("step %d: read of %d bytes at %d differs from the model", i, n, off)
				}
			}
		}
		if got := readAll(t, img); !bytes.Equal(got, model) {
			t.Fatal("the disk differs from the model at the end")
		}
		checkStatus(t, img, model)
	}
}

// checkStatus walks the block status: it covers the disk, and what it calls zero
// reads as zero.
func checkStatus(t *testing.T, img *block.Image, model []byte) {
	t.Helper()
	for off := int64(0); off < img.Size(); {
		st, err := img.Status(t.Context(), off, img.Size()-off, nil)
		if err != nil || st.Length <= 0 {
			t.Fatalf("status at %d: %+v, %v", off, st, err)
		}
		if st.Zero && bytes.ContainsFunc(model[off:off+st.Length], func(r rune) bool { return r != 0 }) {
			t.Fatalf("status calls %d bytes at %d zero, they are not", st.Length, off)
		}
		if st.Zero == st.Data {
			t.Fatalf("status at %d is neither data nor zeroes, or both: %+v", off, st)
		}
		off += st.Length
	}
}

// TestConcurrentWriters lets writers share clusters: each owns every eighth
// stripe, smaller than a cluster.
func TestConcurrentWriters(t *testing.T) {
	const size, stripe = 64 * toyCluster, 512
	d := &toy{size: size}
	img, _ := openToy(t, d)
	want := randomBytes(3, size)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for off := w * stripe; off < size; off += 8 * stripe {
				if _, err := img.WriteAt(context.Background(), want[off:off+stripe], int64(off)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if !bytes.Equal(readAll(t, img), want) {
		t.Fatal("writers lost each other's data")
	}
}

func TestCancelAborts(t *testing.T) {
	d := &toy{size: 16 * toyCluster}
	img, _ := openToy(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := img.WriteAt(ctx, make([]byte, 100), 0); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if len(d.image.pending) != 0 {
		t.Fatal("an allocation is still pending")
	}
	if _, err := img.WriteAt(t.Context(), []byte("x"), 5); err != nil {
		t.Fatal(err)
	}
}

func TestBounds(t *testing.T) {
	img, _ := openToy(t, &toy{size: 8192})
	for _, c := range []struct{ off, n int64 }{{8192, 1}, {-1, 1}, {8000, 193}, {1 << 62, 1 << 20}} {
		if _, err := img.WriteAt(t.Context(), make([]byte, c.n), c.off); !errors.Is(err, driver.ErrRange) {
			t.Errorf("write of %d bytes at %d: %v", c.n, c.off, err)
		}
	}
	if n, err := img.ReadAt(t.Context(), make([]byte, 200), 8100); n != 92 || err != io.EOF {
		t.Errorf("read across the end: %d, %v", n, err)
	}
}

// TestCannotCompress: a format without compression says so.
func TestCannotCompress(t *testing.T) {
	dir := t.TempDir()
	reg := block.NewRegistry(raw.New(), file.New())
	img, err := block.Open(t.Context(), reg, block.Source{Filename: rawFile(t, dir, "disk", make([]byte, 4096)), Format: "raw"},
		block.OpenOptions{Write: true, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	if _, ok, err := img.Encode(nil, make([]byte, 512)); ok || !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("Encode: %v, %v", ok, err)
	}
	if err := img.WriteEncoded(t.Context(), 0, []byte{1}); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("WriteEncoded: %v", err)
	}
}

func TestGate(t *testing.T) {
	dir := t.TempDir()
	d := &toy{size: 8192, backing: rawFile(t, dir, "base", []byte("secret"))}
	reg := block.NewRegistry(raw.New(), file.New(), d)
	src := block.Source{Filename: rawFile(t, dir, "toy", nil), Format: "toy"}
	if _, err := block.Open(t.Context(), reg, src, block.OpenOptions{Gate: driver.DenyAll}); !errors.Is(err, driver.ErrGate) {
		t.Fatalf("the gate did not hold: %v", err)
	}
	if _, err := block.Open(t.Context(), reg, src, block.OpenOptions{}); !errors.Is(err, driver.ErrInvalid) {
		t.Fatalf("no gate was given, yet: %v", err)
	}
}

func TestLoop(t *testing.T) {
	dir := t.TempDir()
	name := rawFile(t, dir, "toy", nil)
	d := &loopToy{toy{size: 8192, backing: "toy"}}
	reg := block.NewRegistry(raw.New(), file.New(), d)
	_, err := block.Open(t.Context(), reg, block.Source{Filename: name, Format: "toy"}, block.OpenOptions{Gate: driver.AllowAll})
	if !errors.Is(err, driver.ErrCorrupt) || !strings.Contains(err.Error(), "loop") {
		t.Fatalf("got %v", err)
	}
}

// loopToy names itself as its backing file.
type loopToy struct{ toy }

func (d *loopToy) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	n, err := d.toy.Open(ctx, req)
	return loopNode{n.(*toyImage)}, err
}

type loopNode struct{ *toyImage }

func (n loopNode) State(context.Context) (*driver.State, error) {
	return &driver.State{Backing: &driver.BackingRef{Filename: n.backing, Format: "toy"}}, nil
}

// TestProbedRaw checks that an image which was guessed to be raw cannot be
// turned into another format by writing to it.
func TestProbedRaw(t *testing.T) {
	name := rawFile(t, t.TempDir(), "disk", make([]byte, 1<<20))
	reg := block.NewRegistry(raw.New(), file.New(), magicFormat{})
	warned := ""
	img, err := block.Open(t.Context(), reg, block.Source{Filename: name},
		block.OpenOptions{Write: true, Gate: driver.AllowAll, Messages: block.Messages{ProbedRaw: func(n string) { warned = n }}})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	if warned != name {
		t.Errorf("warned about %q", warned)
	}
	for _, w := range []struct {
		p   string
		off int64
	}{{"MAGIC", 0}, {"GIC", 2}} {
		if w.off > 0 {
			if _, err := img.WriteAt(t.Context(), []byte("MA"), 0); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := img.WriteAt(t.Context(), []byte(w.p), w.off); err == nil {
			t.Errorf("writing %q at %d was allowed", w.p, w.off)
		}
	}
	if _, err := img.WriteAt(t.Context(), []byte("MAGIC"), 512); err != nil {
		t.Error(err)
	}
}

type magicFormat struct{}

func (magicFormat) Desc() *driver.Desc {
	return &driver.Desc{Name: "magic", Kind: driver.KindFormat}
}
func (magicFormat) Open(context.Context, *driver.OpenRequest) (driver.Node, error) {
	return nil, driver.ErrUnsupported
}
func (magicFormat) Probe(head []byte, _ int64, _ string) int {
	if bytes.HasPrefix(head, []byte("MAGIC")) {
		return 100
	}
	return 0
}

func TestCombinePath(t *testing.T) {
	for _, c := range []struct{ base, name, want string }{
		{"a/b/c.qcow2", "d", "a/b/d"},
		{"c.qcow2", "d", "d"},
		{"a/c", "/abs", "/abs"},
		{"a/c", "nbd://h/x", "nbd://h/x"},
		{"nbd://h/dir/x", "y", "nbd://h/dir/y"},
		{"nbd://h", "y", "nbd://h/y"},
		{"file:a/b", "y", "file:a/y"},
		{"file:b", "y", "file:y"},
		{"json:{}", "y", "y"},
		{"./a:b", "y", "./y"},
	} {
		if got := block.CombinePath(c.base, c.name); got != c.want {
			t.Errorf("CombinePath(%q, %q) = %q, want %q", c.base, c.name, got, c.want)
		}
	}
}

func TestOptions(t *testing.T) {
	name := rawFile(t, t.TempDir(), "disk", randomBytes(1, 8192))
	reg := block.NewRegistry(raw.New(), file.New())
	for _, c := range []struct {
		name string
		src  block.Source
		err  string
	}{
		{"options alone", block.Source{Options: opts.Dict{"driver": "raw", "file.filename": name}}, ""},
		{"json", block.Source{Filename: `json:{"driver":"raw","file":{"driver":"file","filename":"` + name + `"}}`}, ""},
		{"protocol", block.Source{Filename: name, Format: "file"}, ""},
		{"unknown driver", block.Source{Filename: name, Format: "nope"}, "unknown driver 'nope'"},
		{"unknown option", block.Source{Options: opts.Dict{"driver": "raw", "file.filename": name, "x": "1"}}, "block format 'raw' does not support the option 'x'"},
		{"backing file of a format without", block.Source{Options: opts.Dict{"driver": "raw", "file.filename": name, "backing.file.filename": name}}, "driver doesn't support backing files"},
		{"backing node of a format without", block.Source{Options: opts.Dict{"driver": "raw", "file.filename": name, "backing": "n"}}, "driver doesn't support backing files"},
		{"no file", block.Source{Options: opts.Dict{"driver": "raw"}}, `a block device must be specified for "file"`},
		{"unknown protocol", block.Source{Filename: "nope:x"}, "unknown protocol 'nope'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			img, err := block.Open(t.Context(), reg, c.src, block.OpenOptions{Gate: driver.AllowAll})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("got %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if img.Size() != 8192 || img.Filename() != name {
				t.Errorf("size %d, name %q", img.Size(), img.Filename())
			}
			if err := img.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
