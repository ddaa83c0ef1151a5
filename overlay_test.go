package cowl_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl"
	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/protocol/file"
)

// baseFile makes a raw disk and returns its name and contents.
func baseFile(t testing.TB) (string, []byte) {
	t.Helper()
	name, disk := filepath.Join(t.TempDir(), "base.raw"), bytes.Repeat([]byte("base"), 1<<18)
	if err := os.WriteFile(name, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	return name, disk
}

// TestOverlayWrites: the overlay shows the base, takes the writes, and opens again.
func TestOverlayWrites(t *testing.T) {
	ctx := t.Context()
	base, want := baseFile(t)
	before := bytes.Clone(want)
	handle := &object{}
	for name, job := range map[string]cowl.OverlayJob{
		"file":     {Filename: filepath.Join(t.TempDir(), "overlay"), Base: base, BaseFormat: "raw"},
		"relative": {Filename: filepath.Join(filepath.Dir(base), "overlay"), Base: "base.raw", BaseFormat: "raw"},
		"scheme":   {Filename: "file:" + filepath.Join(filepath.Dir(base), "overlay2"), Base: "base.raw", BaseFormat: "raw"},
		"storage":  {Storage: cowl.FromReadWriterAt(handle, 0), Base: base, BaseFormat: "raw"},
	} {
		want := bytes.Clone(before)
		img, err := cowl.Overlay(ctx, job)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := img.WriteAt(ctx, []byte("OVERLAY"), 100); err != nil {
			t.Fatal(err)
		}
		copy(want[100:], "OVERLAY")
		if img.Format() != "qcow2" || img.Backing() == nil {
			t.Errorf("%s: %s without a backing file", name, img.Format())
		}
		if err := img.Close(ctx); err != nil {
			t.Fatal(err)
		}
		img, err = cowl.Open(ctx, cowl.Source{Filename: job.Filename, Storage: job.Storage, Format: "qcow2"}, cowl.OpenOptions{Gate: cowl.AllowAll()})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, img.Size())
		if _, err := img.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: other contents (%v)", name, err)
		}
		if err := img.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(base); err != nil || !bytes.Equal(got, before) {
		t.Errorf("the base has changed (%v)", err)
	}
}

// TestOverlayGate: Base is what the caller named; what it names is the gate's matter.
func TestOverlayGate(t *testing.T) {
	ctx := t.Context()
	base, _ := baseFile(t)
	dir := filepath.Dir(base)
	mid, err := cowl.Overlay(ctx, cowl.OverlayJob{Filename: filepath.Join(dir, "mid"), Base: base, BaseFormat: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	if err := mid.Close(ctx); err != nil {
		t.Fatal(err)
	}
	job := cowl.OverlayJob{Filename: filepath.Join(dir, "top"), Base: "mid", BaseFormat: "qcow2"}
	// Whenever leave is refused, nothing is left: the last question comes when the
	// overlay is there already.
	for allowed := range 3 {
		asked := 0
		job.Gate = cowl.GateFunc(func(_ context.Context, _, role, target string) error {
			if role != "backing" || target != base {
				t.Errorf("asked for %s %s", role, target)
			}
			if asked++; asked > allowed {
				return errors.New("no")
			}
			return nil
		})
		if img, err := cowl.Overlay(ctx, job); !errors.Is(err, driver.ErrGate) {
			t.Fatalf("%d allowed: %v, %v", allowed, img, err)
		}
		if _, err := os.Stat(job.Filename); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%d allowed: the overlay is left: %v", allowed, err)
		}
	}
	job.Gate = nil
	if img, err := cowl.Overlay(ctx, job); !errors.Is(err, driver.ErrGate) {
		t.Fatalf("without a gate: %v, %v", img, err)
	}
	job.Gate = cowl.AllowAll()
	img, err := cowl.Overlay(ctx, job)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(ctx)
	if img.Backing() == nil || img.Backing().Backing() == nil {
		t.Error("the chain is not whole")
	}
}

// TestOverlayKeepsBase: neither the base nor a layer below it is replaced.
func TestOverlayKeepsBase(t *testing.T) {
	ctx := t.Context()
	base, want := baseFile(t)
	dir := filepath.Dir(base)
	mid, err := cowl.Overlay(ctx, cowl.OverlayJob{Filename: filepath.Join(dir, "mid"), Base: base, BaseFormat: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	if err := mid.Close(ctx); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(base, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	handle, err := cowl.FromFile(f)
	if err != nil {
		t.Fatal(err)
	}
	for what, job := range map[string]cowl.OverlayJob{
		"the same name":    {Filename: base, Base: base, BaseFormat: "raw"},
		"another spelling": {Filename: dir + "/./base.raw", Base: base, BaseFormat: "raw"},
		"a layer below":    {Filename: base, Base: "mid", BaseFormat: "qcow2"},
		"its open file":    {Storage: handle, Base: base, BaseFormat: "raw"},
	} {
		job.Gate = cowl.AllowAll()
		if img, err := cowl.Overlay(ctx, job); err == nil {
			t.Errorf("%s: made", what)
			img.Close(ctx)
		}
		if got, err := os.ReadFile(base); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: the base is gone (%v)", what, err)
		}
	}
}

// TestOverlayMisuse: what has no default is asked for by name, and nothing is made.
func TestOverlayMisuse(t *testing.T) {
	base, _ := baseFile(t)
	name := filepath.Join(t.TempDir(), "overlay")
	for what, job := range map[string]cowl.OverlayJob{
		"no base":          {Filename: name},
		"no format":        {Filename: name, Base: base},
		"no such base":     {Filename: name, Base: base + "x", BaseFormat: "raw"},
		"relative":         {Storage: cowl.FromReadWriterAt(&object{}, 0), Base: "base.raw", BaseFormat: "raw"},
		"no backing files": {Filename: name, Format: "raw", Base: base, BaseFormat: "raw"},
		"none that has":    {Registry: block.NewRegistry(raw.New(), file.New()), Filename: name, Base: base, BaseFormat: "raw"},
	} {
		if img, err := cowl.Overlay(t.Context(), job); err == nil {
			t.Errorf("%s: made", what)
			img.Close(t.Context())
		}
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the overlay is left: %v", what, err)
		}
	}
}
