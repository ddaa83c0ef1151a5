package raw_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
	"github.com/cowl-disk/cowl/protocol/mem"
)

var ctx = context.Background()

func tryOpen(path string, write bool, o opts.Dict) (*block.Image, error) {
	d := o.Clone()
	if d == nil {
		d = opts.Dict{}
	}
	d["driver"], d["file.driver"], d["file.filename"] = "raw", "file", path
	return block.Open(ctx, block.NewRegistry(file.New(), raw.New()), block.Source{Options: d},
		block.OpenOptions{Write: write, Sharing: block.Sharing{Resize: write}, Unmap: true, Gate: driver.DenyAll})
}

func open(t *testing.T, path string, write bool, o opts.Dict) *block.Image {
	t.Helper()
	img, err := tryOpen(path, write, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close(ctx) })
	return img
}

// someFile makes a file of n bytes that are not zero.
func someFile(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xa5}, n), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// list is o as QEMU takes it.
func list(path string, o opts.Dict) string {
	s := "driver=raw,file.driver=file,file.filename=" + opts.EscapeComma(path)
	for _, k := range o.Keys() {
		s += "," + k + "=" + o.String(k)
	}
	return s
}

// TestSizesBesideTheOriginal: the size of odd files and of parts of files, and
// what lies in them.
func TestSizesBesideTheOriginal(t *testing.T) {
	for _, c := range []struct {
		length int
		o      opts.Dict
	}{
		{0, nil}, {1, nil}, {511, nil}, {512, nil}, {1000, nil}, {1 << 20, nil},
		{1000, opts.Dict{"offset": "512"}}, {1000, opts.Dict{"offset": "1000"}}, {1000, opts.Dict{"offset": "1024"}}, {1000, opts.Dict{"size": "512"}},
		{1000, opts.Dict{"offset": "512", "size": "512"}}, {1000, opts.Dict{"size": "0"}}, {100000, opts.Dict{"offset": "10k", "size": "64k"}},
		// Refused:
		{1000, opts.Dict{"offset": "1025"}}, {1000, opts.Dict{"size": "1000"}}, {1000, opts.Dict{"size": "1536"}}, {2000, opts.Dict{"offset": "1024", "size": "1536"}},
		{1000, opts.Dict{"offset": "1536", "size": "512"}}, {1 << 20, opts.Dict{"size": "100"}},
	} {
		path := someFile(t, c.length)
		args := list(path, c.o)
		out, errOut, code := testkit.Try(t, "qemu-img", "info", "--output", "json", "--image-opts", args)
		img, err := tryOpen(path, false, c.o)
		if code != 0 {
			text := strings.TrimSpace(errOut)
			text = text[strings.LastIndex(text, "': ")+3:]
			if err == nil || !strings.HasSuffix(words.Text(err), text) {
				t.Errorf("%d bytes, %v: %v, want %s", c.length, c.o, err, text)
			}
			continue
		}
		if err != nil {
			t.Errorf("%d bytes, %v: %v", c.length, c.o, err)
			continue
		}
		var theirs struct {
			Size int64 `json:"virtual-size"`
		}
		if err := json.Unmarshal([]byte(out), &theirs); err != nil {
			t.Fatal(err)
		}
		if img.Size() != theirs.Size {
			t.Errorf("%d bytes, %v: size %d, want %d", c.length, c.o, img.Size(), theirs.Size)
		}
		copied := path + ".copy"
		testkit.Run(t, "qemu-img", "convert", "--image-opts", "-O", "raw", args, copied)
		want, err := os.ReadFile(copied)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, img.Size())
		if _, err := img.ReadAt(ctx, got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v: reads differently", c.length, c.o)
		}
		img.Close(ctx)
	}
}

// TestMapBesideTheOriginal compares the extents of sparse and odd files.
func TestMapBesideTheOriginal(t *testing.T) {
	for name, make := range map[string]func(f *os.File) error{
		"empty":       func(*os.File) error { return nil },
		"three bytes": func(f *os.File) error { _, err := f.WriteString("abc"); return err },
		"hole":        func(f *os.File) error { return f.Truncate(1001) },
		"mixed": func(f *os.File) error {
			_, err := f.WriteAt(bytes.Repeat([]byte{1}, 100000), 1<<20)
			return errors.Join(err, f.Truncate(5<<20+77))
		},
		"data at the end": func(f *os.File) error { _, err := f.WriteAt([]byte("abc"), 1<<20); return err },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(make(f), f.Sync(), f.Close()); err != nil {
				t.Fatal(err)
			}
			type extent struct {
				Start, Length, Offset int64
				Zero, Data, Present   bool
			}
			var want, got []extent
			if err := json.Unmarshal([]byte(testkit.Run(t, "qemu-img", "map", "-f", "raw", "--output", "json", path)), &want); err != nil {
				t.Fatal(err)
			}
			img := open(t, path, false, nil)
			for off := int64(0); off < img.Size(); {
				st, err := img.Status(ctx, off, img.Size()-off, nil)
				if err != nil || st.Length == 0 || !st.HasOffset {
					t.Fatalf("at %d: %+v, %v", off, st, err)
				}
				e := extent{off, st.Length, st.Offset, st.Zero, st.Data, true}
				if n := len(got); n > 0 && got[n-1].Zero == e.Zero {
					got[n-1].Length += e.Length
				} else {
					got = append(got, e)
				}
				off += st.Length
			}
			if img.Size() == 0 {
				return // QEMU prints one extent of nothing
			}
			if a, b := text(got), text(want); a != b {
				t.Errorf("got  %s\nwant %s", a, b)
			}
		})
	}
}

func text(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// TestWriteAtTheEnd: the last sector of an odd file can be written.
func TestWriteAtTheEnd(t *testing.T) {
	path := someFile(t, 700)
	img := open(t, path, true, nil)
	if _, err := img.WriteAt(ctx, []byte("end"), 1021); err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt(ctx, []byte("end"), 1022); !errors.Is(err, driver.ErrRange) {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != 1024 || b[699] != 0xa5 || b[700] != 0 || string(b[1021:]) != "end" {
		t.Fatal(len(b), err)
	}
}

// TestPartOfAFile: nothing outside of the selected part is seen or changed.
func TestPartOfAFile(t *testing.T) {
	path := someFile(t, 8192)
	img := open(t, path, true, opts.Dict{"offset": "512", "size": "1024"})
	p := make([]byte, 1100)
	if n, err := img.ReadAt(ctx, p, 0); n != 1024 || err != io.EOF {
		t.Fatal(n, err)
	}
	if _, err := img.WriteAt(ctx, bytes.Repeat([]byte{1}, 512), 0); err != nil {
		t.Fatal(err)
	}
	if err := img.WriteZeroes(ctx, 512, 512, driver.ZeroMayUnmap); err != nil {
		t.Fatal(err)
	}
	z := img.Tree().Node().(driver.ZeroWriter)
	d := img.Tree().Node().(driver.Discarder)
	a := img.Tree().Node().(driver.Allocator)
	_, err := a.Allocate(ctx, 512, 513)
	for _, err := range []error{err, z.WriteZeroes(ctx, 1024, 1, 0), d.Discard(ctx, 0, 1025), d.Discard(ctx, -1, 1)} {
		if !errors.Is(err, driver.ErrRange) && !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("reached outside: %v", err)
		}
	}
	if err := img.Resize(ctx, 2048, driver.ResizeOptions{}); err == nil || !strings.HasSuffix(words.Text(err), "Cannot resize fixed-size raw disks") {
		t.Error(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range b {
		want := byte(0xa5)
		if i >= 512 && i < 1024 {
			want = 1
		} else if i >= 1024 && i < 1536 {
			want = 0
		}
		if c != want {
			t.Fatalf("byte %d is %#x", i, c)
		}
	}
}

func TestResize(t *testing.T) {
	path := someFile(t, 4096)
	img := open(t, path, true, opts.Dict{"offset": "1024"})
	for _, size := range []int64{10240, 1024, 0, 2048} {
		if err := img.Resize(ctx, size, driver.ResizeOptions{Exact: true}); err != nil || img.Size() != size {
			t.Fatalf("resize to %d: size %d, %v", size, img.Size(), err)
		}
		if st, err := os.Stat(path); err != nil || st.Size() != size+1024 {
			t.Fatal(st.Size(), err)
		}
	}
}

func TestReadOnly(t *testing.T) {
	n := open(t, someFile(t, 4096), false, nil).Tree().Node()
	_, err := n.(driver.Allocator).Allocate(ctx, 0, 1)
	for _, err := range []error{err, n.(driver.ZeroWriter).WriteZeroes(ctx, 0, 1, 0), n.(driver.Discarder).Discard(ctx, 0, 1), n.(driver.Resizer).Resize(ctx, 1, driver.ResizeOptions{})} {
		if !errors.Is(err, driver.ErrReadOnly) {
			t.Error(err)
		}
	}
}

func TestCreate(t *testing.T) {
	c := raw.New().(driver.Creator)
	for _, size := range []int64{0, 1, 512, 1001} {
		d := mem.NewDisk(0)
		if err := c.Create(ctx, &driver.CreateRequest{Size: size, File: d}); err != nil || d.Size() != (size+511)/512*512 {
			t.Errorf("%d bytes: %d, %v", size, d.Size(), err)
		}
	}
	for _, r := range []driver.CreateRequest{
		{Size: -1}, {Size: 1<<63 - 1}, {Size: 1, Options: opts.Dict{"nonsense": "1"}},
	} {
		r.File = mem.NewDisk(0)
		if err := c.Create(ctx, &r); err == nil {
			t.Errorf("%+v was accepted", r)
		}
	}
}

func TestMeasureBesideTheOriginal(t *testing.T) {
	for _, size := range []string{"0", "1", "1001", "1M"} {
		n, err := opts.ParseSize(size)
		if err != nil {
			t.Fatal(err)
		}
		m, err := raw.New().(driver.Measurer).Measure(ctx, &driver.MeasureRequest{Size: n})
		if err != nil {
			t.Fatal(err)
		}
		var want struct {
			Required int64 `json:"required"`
			Fully    int64 `json:"fully-allocated"`
		}
		if err := json.Unmarshal([]byte(testkit.Run(t, "qemu-img", "measure", "--size", size, "-O", "raw", "--output", "json")), &want); err != nil {
			t.Fatal(err)
		}
		if m.Required != want.Required || m.FullyAllocated != want.Fully {
			t.Errorf("%s: %+v, want %+v", size, m, want)
		}
	}
}

func TestProbe(t *testing.T) {
	if got := raw.New().(driver.Prober).Probe([]byte("QFI\xfb"), 1000, "x"); got != 1 {
		t.Fatal(got)
	}
}
