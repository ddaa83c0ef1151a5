package block_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// device is storage that takes whole units of 512 bytes only.
type device struct {
	*mem.Disk
	t *testing.T
}

var deviceDesc = driver.Desc{Name: "device", Kind: driver.KindProtocol, Schemes: []string{"device"}, OpenOptions: opts.SchemaOf(struct {
	Filename string `opt:"filename"`
}{})}

func (d *device) Desc() *driver.Desc { return &deviceDesc }
func (d *device) Open(context.Context, *driver.OpenRequest) (driver.Node, error) {
	return d, nil
}
func (d *device) Limits() driver.Limits {
	return driver.Limits{RequestAlignment: 512, MaxTransfer: 2048}
}
func (d *device) judge(off int64, n int) {
	if off%512 != 0 || n%512 != 0 || n > 2048 {
		d.t.Errorf("a request of %d bytes at %d", n, off)
	}
}
func (d *device) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	d.judge(off, len(p))
	return d.Disk.ReadAt(ctx, p, off)
}
func (d *device) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	d.judge(off, len(p))
	return d.Disk.WriteAt(ctx, p, off)
}

// TestSmallWritesBesideEachOther: writers of neighbouring bytes of one unit do not
// undo each other's writes.
func TestSmallWritesBesideEachOther(t *testing.T) {
	const size = 8 << 10
	dev := &device{mem.NewDisk(size), t}
	img, err := block.Open(t.Context(), block.NewRegistry(dev), block.Source{Filename: "device:x", Format: "device"},
		block.OpenOptions{Write: true, Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	want := make([]byte, size)
	var wg sync.WaitGroup
	const writers = 8
	for w := range writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for range 300 {
				// Bytes whose offset is w modulo the number of writers are w's.
				off := r.Int64N(size/writers)*writers + int64(w)
				b := []byte{byte(r.Uint32())}
				if _, err := img.WriteAt(t.Context(), b, off); err != nil {
					t.Error(err)
				}
				want[off] = b[0]
			}
		})
	}
	wg.Wait()
	got := make([]byte, size)
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a write was lost, or %v", err)
	}
	for _, r := range [][2]int64{{1, 1}, {511, 2}, {700, 5000}, {0, size}, {3, size - 3}} {
		p := make([]byte, r[1])
		if _, err := img.ReadAt(t.Context(), p, r[0]); err != nil || !bytes.Equal(p, want[r[0]:r[0]+r[1]]) {
			t.Errorf("%d bytes at %d read wrong, or %v", r[1], r[0], err)
		}
	}
}

// TestGuardOfTheStart: however a client cuts its requests, the start of a disk that
// was probed as raw does not become another format's header.
func TestGuardOfTheStart(t *testing.T) {
	open := func(content string) *block.Image {
		name := rawFile(t, t.TempDir(), "disk", append([]byte(content), make([]byte, 1<<20)...))
		img, err := block.Open(t.Context(), block.NewRegistry(raw.New(), file.New(), magicFormat{}),
			block.Source{Filename: name}, block.OpenOptions{Write: true, Unmap: true, Gate: driver.AllowAll})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { img.Close(context.Background()) })
		if got := img.Limits().RequestAlignment; got != 512 {
			t.Errorf("requests are multiples of %d", got)
		}
		return img
	}
	const magic = "MAGIC"
	for cut := 1; cut < len(magic); cut++ {
		for _, first := range []bool{true, false} {
			img := open("")
			parts := []string{magic[:cut], magic[cut:]}
			offs := []int64{0, int64(cut)}
			a, b := 0, 1
			if !first {
				a, b = 1, 0
			}
			if _, err := img.WriteAt(t.Context(), []byte(parts[a]), offs[a]); err != nil {
				t.Fatalf("half of a magic: %v", err)
			}
			if _, err := img.WriteAt(t.Context(), []byte(parts[b]), offs[b]); !errors.Is(err, driver.ErrReadOnly) {
				t.Errorf("%q then %q: %v", parts[a], parts[b], err)
			}
		}
	}
	// Zeroes and discards make headers too.
	img := open("MAGIx")
	reg := func() *block.Image {
		name := rawFile(t, t.TempDir(), "disk", append([]byte("Zx"), make([]byte, 1<<20)...))
		img, err := block.Open(t.Context(), block.NewRegistry(raw.New(), file.New(), zeroMagic{}), block.Source{Filename: name},
			block.OpenOptions{Write: true, Unmap: true, Gate: driver.AllowAll})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { img.Close(context.Background()) })
		return img
	}
	if err := reg().WriteZeroes(t.Context(), 1, 1, 0); !errors.Is(err, driver.ErrReadOnly) {
		t.Errorf("zeroes that complete a header: %v", err)
	}
	if _, err := img.WriteAt(t.Context(), []byte("C"), 4); !errors.Is(err, driver.ErrReadOnly) {
		t.Errorf("a last byte: %v", err)
	}
	if _, err := img.WriteAt(t.Context(), []byte("y"), 4); err != nil {
		t.Error(err)
	}
}

// zeroMagic is told by a Z and a zero byte.
type zeroMagic struct{ magicFormat }

func (zeroMagic) Probe(head []byte, _ int64, _ string) int {
	if len(head) > 2 && head[0] == 'Z' && head[1] == 0 {
		return 100
	}
	return 0
}

// TestClosed: requests after Close fail with fs.ErrClosed.
func TestClosed(t *testing.T) {
	name := rawFile(t, t.TempDir(), "disk", make([]byte, 8192))
	img, err := block.Open(t.Context(), block.NewRegistry(raw.New(), file.New()), block.Source{Filename: name, Format: "raw"},
		block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Unmap: true, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	if err := img.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for what, err := range map[string]error{
		"read":    second(img.ReadAt(ctx, make([]byte, 1), 0)),
		"write":   second(img.WriteAt(ctx, make([]byte, 1), 0)),
		"zero":    img.WriteZeroes(ctx, 0, 1, 0),
		"discard": img.Discard(ctx, 0, 512),
		"flush":   img.Flush(ctx),
		"resize":  img.Resize(ctx, 512, driver.ResizeOptions{}),
		"status":  second(img.Status(ctx, 0, 1, nil)),
		"map":     second(img.Map(ctx, 0, 1)),
	} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestResizeNeedsPermission: who did not ask to resize cannot.
func TestResizeNeedsPermission(t *testing.T) {
	name := rawFile(t, t.TempDir(), "disk", make([]byte, 8192))
	img, err := block.Open(t.Context(), block.NewRegistry(raw.New(), file.New()), block.Source{Filename: name, Format: "raw"},
		block.OpenOptions{Write: true, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	if err := img.Resize(t.Context(), 512, driver.ResizeOptions{}); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if st, err := os.Stat(name); err != nil || st.Size() != 8192 {
		t.Errorf("%v, %v", st.Size(), err)
	}
}

// TestPlainNames: a name that an option gives is a file, whatever it looks like.
func TestPlainNames(t *testing.T) {
	t.Chdir(t.TempDir())
	rawFile(t, ".", "a:b.img", make([]byte, 4096))
	reg := block.NewRegistry(raw.New(), file.New(), mem.New())
	for _, c := range []struct {
		src  block.Source
		want error
	}{
		{block.Source{Options: opts.Dict{"driver": "raw", "file.filename": "a:b.img"}}, nil},
		{block.Source{Options: opts.Dict{"file.filename": "a:b.img"}}, nil},
		{block.Source{Filename: `json:{"driver":"raw","file":{"filename":"a:b.img"}}`}, nil},
		{block.Source{Options: opts.Dict{"driver": "raw", "file.filename": "mem:x"}}, fs.ErrNotExist},
	} {
		img, err := block.Open(t.Context(), reg, c.src, block.OpenOptions{Gate: driver.DenyAll})
		if !errors.Is(err, c.want) {
			t.Errorf("%v: %v", c.src, err)
		}
		if err == nil {
			if img.Tree().Protocol().Format() != "file" || img.Size() != 4096 {
				t.Errorf("%v opened %s of %d bytes", c.src, img.Tree().Protocol().Format(), img.Size())
			}
			img.Close(t.Context())
		}
	}
}

// TestStatusInUnits: a disk with units of requests describes itself in such units; the
// last sector of a file that ends in it counts as data.
func TestStatusInUnits(t *testing.T) {
	name := rawFile(t, t.TempDir(), "disk", bytes.Repeat([]byte{1}, 1000))
	reg := block.NewRegistry(raw.New(), file.New())
	for _, c := range []struct {
		format string
		want   []int64 // lengths
	}{{"raw", []int64{1000, 24}}, {"", []int64{512, 512}}} {
		img, err := block.Open(t.Context(), reg, block.Source{Filename: name, Format: c.format}, block.OpenOptions{Write: true, Gate: driver.AllowAll})
		if err != nil {
			t.Fatal(err)
		}
		off := int64(0)
		for i, want := range c.want {
			st, err := img.Status(t.Context(), off, img.Size()-off, nil)
			if err != nil || st.Length != want || st.Zero != (c.format == "raw" && i == 1) || !st.HasOffset && !st.Zero {
				t.Errorf("format %q at %d: %+v, %v", c.format, off, st, err)
			}
			off += st.Length
		}
		img.Close(t.Context())
	}
}
