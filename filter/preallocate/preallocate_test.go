package preallocate_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/preallocate"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
)

// TestRoom: a growing image grows in large steps, and what it did not use is given back.
func TestRoom(t *testing.T) {
	name := filepath.Join(t.TempDir(), "d")
	reg := block.NewRegistry(preallocate.New(), qcow2.New(), raw.New(), file.New())
	if err := block.Create(t.Context(), reg, block.CreateRequest{Filename: name, Format: "qcow2", Size: 10 << 20, Options: opts.Dict{}}); err != nil {
		t.Fatal(err)
	}
	length := func() int64 {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	img, err := block.Open(t.Context(), reg, block.Source{Options: opts.Dict{"driver": "qcow2", "file.driver": "preallocate", "file.prealloc-size": "4M",
		"file.file.driver": "file", "file.file.filename": name}}, block.OpenOptions{Write: true, Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt(t.Context(), []byte{1}, 0); err != nil {
		t.Fatal(err)
	}
	if err := img.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := length(); got < 4<<20 || got%(1<<20) != 0 {
		t.Errorf("the file has %d bytes while it is open", got)
	}
	if got := img.Tree().File().Size(); got > 1<<20 {
		t.Errorf("the filter says %d bytes", got)
	}
	if err := img.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := length(); got > 1<<20 {
		t.Errorf("the file has %d bytes in the end", got)
	}
}
