package export

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
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
			f, at, ok := dev.(server.FileRanger).FileRange(512, 1<<19)
			if ok != (c.shift >= 0) || ok && (f == nil || at != c.shift+512) {
				t.Fatalf("%v, offset %d", ok, at)
			}
			if !ok {
				return
			}
			if _, _, ok := dev.(server.FileRanger).FileRange(512, length-c.shift-511); ok {
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
