package blkverify_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/blkverify"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/protocol/mem"
)

func TestMismatch(t *testing.T) {
	m := mem.New().(*mem.Driver)
	a, b := mem.NewDisk(8192), mem.NewDisk(8192)
	m.Add("a", a)
	m.Add("b", b)
	img, err := block.Open(t.Context(), block.NewRegistry(blkverify.New(), raw.New(), m), block.Source{Filename: "blkverify:mem:a", Format: "raw"},
		block.OpenOptions{Gate: driver.DenyAll})
	if err == nil {
		img.Close(t.Context())
		t.Fatal("a name without an image was taken")
	}
	_, err = block.Open(t.Context(), block.NewRegistry(blkverify.New(), raw.New(), m), block.Source{Filename: "blkverify:a:mem:b", Format: "blkverify"},
		block.OpenOptions{Write: true, Gate: driver.DenyAll})
	if err == nil || !strings.Contains(err.Error(), "no driver for 'a'") {
		t.Fatalf("%v", err)
	}
	src := block.Source{Filename: `json:{"driver":"blkverify","raw":{"driver":"mem","filename":"a"},"test":{"driver":"raw","file":{"driver":"mem","filename":"b"}}}`}
	img, err = block.Open(t.Context(), block.NewRegistry(blkverify.New(), raw.New(), m), src, block.OpenOptions{Write: true, Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	if _, err := img.WriteAt(t.Context(), []byte("both"), 100); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 8192)
	if _, err := img.ReadAt(t.Context(), p, 0); err != nil || string(p[100:104]) != "both" {
		t.Errorf("%q, %v", p[100:104], err)
	}
	if _, err := a.WriteAt(t.Context(), []byte{9}, 5000); err != nil {
		t.Fatal(err)
	}
	if _, err := img.ReadAt(t.Context(), p, 0); !errors.Is(err, driver.ErrCorrupt) || !strings.Contains(err.Error(), "mismatch at offset 5000") {
		t.Errorf("%v", err)
	}
	if _, err := img.ReadAt(t.Context(), p[:4096], 0); err != nil {
		t.Errorf("before the mismatch: %v", err)
	}
	b.SetHook(func(op mem.Op, _, _ int64) error {
		if op == mem.OpWrite {
			return syscall.EIO
		}
		return nil
	})
	if _, err := img.WriteAt(t.Context(), []byte("x"), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("a write that fails on one side: %v", err)
	}
}
