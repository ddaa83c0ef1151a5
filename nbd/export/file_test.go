package export

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
)

// TestFileRange asks where the bytes of disks are. Where they are in a file, that is
// read through a socket too, to an end inside the last sector.
func TestFileRange(t *testing.T) {
	const length = 1<<20 - 100
	reg := block.NewRegistry(file.New(), raw.New(), qcow2.New())
	data := make([]byte, length)
	for i := range data {
		data[i] = byte(i%253) + 1
	}
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "disk.qcow2")
	if err := block.Create(t.Context(), reg, block.CreateRequest{Filename: other, Format: "qcow2", Size: 1 << 20, Gate: driver.AllowAll}); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		src   block.Source
		cache driver.Cache
		shift int64 // -1: nowhere
	}{
		"raw":     {src: block.Source{Filename: name, Format: "raw"}},
		"plain":   {src: block.Source{Filename: name, Format: "file"}},
		"shifted": {src: block.Source{Filename: name, Format: "raw", Options: opts.Dict{"offset": "4096"}}, shift: 4096},
		"direct":  {src: block.Source{Filename: name, Format: "raw"}, cache: driver.Cache{Direct: true}, shift: -1},
		"qcow2":   {src: block.Source{Filename: other, Format: "qcow2"}, shift: -1},
	} {
		t.Run(what, func(t *testing.T) {
			img, err := block.Open(t.Context(), reg, c.src, block.OpenOptions{Gate: driver.AllowAll, Cache: c.cache})
			if err != nil && c.cache.Direct {
				t.Skip("no direct I/O here: ", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close(context.Background())
			dev := mustNew(t, img, Options{})
			f, at, ok := dev.(server.FileRanger).FileRange(t.Context(), 512, 1<<19)
			if ok != (c.shift >= 0) || ok && (f == nil || at != c.shift+512) {
				t.Fatalf("%v, offset %d", ok, at)
			}
			if !ok {
				return
			}
			if _, _, ok := dev.(server.FileRanger).FileRange(t.Context(), 512, length-c.shift-511); ok {
				t.Error("more than the file has")
			}
			want := make([]byte, img.Size())
			copy(want, data[c.shift:])
			if got := readAll(t, dev); !bytes.Equal(got, want) {
				t.Errorf("%d bytes differ from the %d of the disk", len(got), len(want))
			}
		})
	}
}

// readAll reads a device by way of a server and a Unix socket, in one request.
func readAll(t *testing.T, dev server.Device) []byte {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(server.Config{})
	if err := s.AddExport(&server.Export{Device: dev}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context(), l) }()
	defer func() {
		s.Shutdown(context.Background())
		<-done
	}()
	c, err := client.Dial(t.Context(), client.Config{Network: "unix", Address: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, c.Info().Size)
	if err := c.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestFileRangeLayers asks where the bytes of qcow2 disks are: in the file only where
// nobody can write to it, and never where they are stored in another form.
func TestFileRangeLayers(t *testing.T) {
	const size = 4 << 20
	reg := block.NewRegistry(file.New(), raw.New(), qcow2.New())
	dir := t.TempDir()
	base, top := filepath.Join(dir, "base"), filepath.Join(dir, "top")
	open := func(name string, write bool) *block.Image {
		t.Helper()
		img, err := block.Open(t.Context(), reg, block.Source{Filename: name, Format: "qcow2"}, block.OpenOptions{Gate: driver.AllowAll, Write: write})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	want := make([]byte, size)
	fill := func(img *block.Image, off int) {
		t.Helper()
		for i := range 1 << 20 {
			want[off+i] = byte((off+i)%251) + 1
		}
		_, err := img.WriteAt(t.Context(), want[off:off+1<<20], int64(off))
		must(err)
	}
	ranges := func(img *block.Image, yes ...int64) {
		t.Helper()
		dev := mustNew(t, img, Options{})
		for off := int64(0); off < size; off += 1 << 20 {
			f, at, ok := dev.(server.FileRanger).FileRange(t.Context(), off+512, 1<<19)
			if ok != slices.Contains(yes, off) {
				t.Errorf("at %d: %v", off, ok)
			}
			if !ok {
				continue
			}
			got := make([]byte, 1<<19)
			if _, err := f.ReadAt(got, at); err != nil || !bytes.Equal(got, want[off+512:off+512+1<<19]) {
				t.Errorf("at %d: other bytes, %v", off, err)
			}
			// One piece ends where the next begins.
			if _, _, ok := dev.(server.FileRanger).FileRange(t.Context(), off+(1<<19), 1<<20); ok {
				t.Errorf("at %d: more than there is", off)
			}
		}
		if got := readAll(t, dev); !bytes.Equal(got, want) {
			t.Error("a client reads other bytes")
		}
		must(img.Close(context.Background()))
	}
	must(block.Create(t.Context(), reg, block.CreateRequest{Filename: base, Format: "qcow2", Size: size, Gate: driver.AllowAll}))
	img := open(base, true)
	fill(img, 0)
	fill(img, 2<<20)
	packed := bytes.Repeat([]byte("packed! "), 1<<16/8)
	copy(want[3<<20:], packed)
	enc, _, err := img.Encode(nil, packed)
	must(err)
	must(img.WriteEncoded(t.Context(), 3<<20, enc))
	ranges(img)
	ranges(open(base, false), 0, 2<<20)
	must(block.Create(t.Context(), reg, block.CreateRequest{Filename: top, Format: "qcow2", Size: size,
		Options: opts.Dict{"backing_file": base, "backing_fmt": "qcow2"}, Gate: driver.AllowAll}))
	img = open(top, true)
	fill(img, 1<<20)
	ranges(img, 0, 2<<20)
	ranges(open(top, false), 0, 1<<20, 2<<20)
}
