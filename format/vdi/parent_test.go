package vdi_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/format/vdi"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
)

// TestDifferencing: an image in a folder of snapshots finds its parents by their
// identifiers, whatever they are called.
func TestDifferencing(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	reg := block.NewRegistry(vdi.New(), file.New())
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Mkdir(path("Snapshots"), 0o755); err != nil {
		t.Fatal(err)
	}
	const size = 4 * mib
	create := func(name string) {
		t.Helper()
		if err := block.Create(ctx, reg, block.CreateRequest{Filename: path(name), Format: "vdi", Size: size, Gate: driver.AllowAll}); err != nil {
			t.Fatal(err)
		}
	}
	tryOpen := func(name string, write bool, gate driver.Gate) (*block.Image, error) {
		return block.Open(ctx, reg, block.Source{Filename: path(name), Format: "vdi"}, block.OpenOptions{Write: write, Unmap: true, Gate: gate})
	}
	open := func(name string, write bool) *block.Image {
		t.Helper()
		img, err := tryOpen(name, write, driver.AllowAll)
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	closeImage := func(img *block.Image) {
		t.Helper()
		if err := img.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	m := testkit.NewModel(size)
	r := testkit.Rand(1)
	change := func(img *block.Image, off, n int64) {
		t.Helper()
		p := make([]byte, n)
		testkit.Fill(r, p)
		if _, err := img.WriteAt(ctx, p, off); err != nil {
			t.Fatal(err)
		}
		m.Write(p, off)
	}
	header := func(name string, edit func(b []byte)) {
		t.Helper()
		b, err := os.ReadFile(path(name))
		if err != nil {
			t.Fatal(err)
		}
		edit(b)
		if err := os.WriteFile(path(name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// child makes an image that VirtualBox would call a snapshot of another.
	child := func(name, parent string) {
		t.Helper()
		create(name)
		var ids []byte
		header(parent, func(b []byte) { ids = bytes.Clone(b[0x188:0x1a8]) })
		header(name, func(b []byte) {
			binary.LittleEndian.PutUint32(b[0x4c:], 4)
			copy(b[0x1a8:], ids)
		})
	}
	compare := func(img *block.Image) {
		t.Helper()
		got := make([]byte, size)
		if _, err := img.ReadAt(ctx, got, 0); err != nil {
			t.Fatal(err)
		}
		if d := m.Diff(got, 0); d != "" {
			t.Fatal(d)
		}
	}
	create("stranger.vdi")
	create("My disk.VDI")
	img := open("My disk.VDI", true)
	change(img, 0, 3*mib)
	closeImage(img)
	child("Snapshots/one.vdi", "My disk.VDI")
	img = open("Snapshots/one.vdi", true)
	compare(img)
	change(img, mib/2, mib)
	closeImage(img)
	child("Snapshots/two.vdi", "Snapshots/one.vdi")
	img = open("Snapshots/two.vdi", true)
	compare(img)
	change(img, 2*mib+100, 5000)
	if err := img.WriteZeroes(ctx, mib, mib, driver.ZeroMayUnmap); err != nil {
		t.Fatal(err)
	}
	m.Zero(mib, mib)
	if err := img.WriteZeroes(ctx, 3*mib, mib, 0); err != nil {
		t.Fatal(err)
	}
	compare(img)
	closeImage(img)
	img = open("Snapshots/two.vdi", false)
	compare(img)
	closeImage(img)

	if img, err := tryOpen("Snapshots/two.vdi", false, driver.DenyAll); !errors.Is(err, driver.ErrGate) {
		t.Errorf("a closed gate: %v", err)
		if err == nil {
			closeImage(img)
		}
	}
	img = open("My disk.VDI", true)
	change(img, 0, 512)
	closeImage(img)
	if img, err := tryOpen("Snapshots/two.vdi", false, driver.AllowAll); err == nil || !strings.Contains(err.Error(), "the parent has been modified") {
		t.Errorf("a parent that was changed: %v", err)
		if err == nil {
			closeImage(img)
		}
	}
	if err := os.Remove(path("My disk.VDI")); err != nil {
		t.Fatal(err)
	}
	if img, err := tryOpen("Snapshots/one.vdi", false, driver.AllowAll); err == nil || !strings.Contains(err.Error(), "no image beside") {
		t.Errorf("no parent: %v", err)
		if err == nil {
			closeImage(img)
		}
	}
}

// TestCreateDifferencing: a new image on top of another one is made only where it finds that
// again.
func TestCreateDifferencing(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	reg := block.NewRegistry(vdi.New(), file.New(), raw.New())
	for _, name := range []string{"sub", "sub/sub"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	create := func(name string, size int64, o opts.Dict) error {
		return block.Create(ctx, reg, block.CreateRequest{Filename: filepath.Join(dir, name), Format: "vdi", Size: size, Options: o, Gate: driver.AllowAll})
	}
	open := func(name string) *block.Image {
		t.Helper()
		img, err := block.Open(ctx, reg, block.Source{Filename: filepath.Join(dir, name), Format: "vdi"}, block.OpenOptions{Write: true, Gate: driver.AllowAll})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	if err := create("base.vdi", 4*mib, opts.Dict{}); err != nil {
		t.Fatal(err)
	}
	img := open("base.vdi")
	if _, err := img.WriteAt(ctx, []byte("base"), mib); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "raw.vdi"), make([]byte, mib), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		o    opts.Dict
		ok   bool
	}{
		{"a.vdi", opts.Dict{"backing_file": "base.vdi"}, true},
		{"sub/b.vdi", opts.Dict{"backing_file": "../base.vdi", "backing_fmt": "vdi"}, true},
		{"sub/sub/c.vdi", opts.Dict{"backing_file": "../../base.vdi"}, false},
		{"d.vdi", opts.Dict{"backing_file": "raw.vdi"}, false},
		{"e.vdi", opts.Dict{"backing_file": "base.vdi", "static": "on"}, false},
		{"f.vdi", opts.Dict{"backing_file": "base.vdi", "backing_fmt": "raw"}, false},
	} {
		if err := create(c.name, 4*mib, c.o); (err == nil) != c.ok || err != nil && !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%s: %v", c.name, err)
		}
		if !c.ok {
			continue
		}
		img := open(c.name)
		p := make([]byte, 4)
		if _, err := img.ReadAt(ctx, p, mib); err != nil || string(p) != "base" {
			t.Errorf("%s: %q, %v", c.name, p, err)
		}
		if err := img.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
