package cowl_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// asking returns a Gate that allows everything, and notes what it is asked.
func asking(asked *[]string) cowl.Gate {
	return cowl.GateFunc(func(_ context.Context, _, role, target string) error {
		*asked = append(*asked, role+" "+filepath.Base(target))
		return nil
	})
}

// all says whether every question was the one that is expected, and whether there was one.
func all(asked []string, want string) bool {
	for _, q := range asked {
		if q != want {
			return false
		}
	}
	return len(asked) > 0
}

// TestCopySourceNeedsLeave: a source that is opened by name names a backing file.
func TestCopySourceNeedsLeave(t *testing.T) {
	ctx := t.Context()
	base, want := baseFile(t)
	overlay, target := filepath.Join(filepath.Dir(base), "overlay"), filepath.Join(t.TempDir(), "target")
	format := "raw"
	if err := cowl.Create(ctx, cowl.CreateJob{Filename: overlay, Format: "qcow2", Backing: &base, BackingFormat: &format, Gate: cowl.AllowAll()}); err != nil {
		t.Fatal(err)
	}
	job := cowl.CopyJob{Files: []cowl.Source{{Filename: overlay, Format: "qcow2"}}, New: &cowl.CreateJob{Filename: target, Format: "raw"}}
	if _, err := cowl.Copy(ctx, job); !errors.Is(err, driver.ErrGate) {
		t.Fatalf("copied without leave: %v", err)
	}
	if _, err := os.Stat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target was made all the same: %v", err)
	}
	var asked []string
	job.Open.Gate = asking(&asked)
	if _, err := cowl.Copy(ctx, job); err != nil || !all(asked, "backing base.raw") {
		t.Fatalf("%v, asked for %q", err, asked)
	}
	if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, want) {
		t.Errorf("other contents (%v)", err)
	}
}

// TestCopyTargetNeedsLeave: the new image names a backing file. The gate of the source
// says nothing about it.
func TestCopyTargetNeedsLeave(t *testing.T) {
	ctx := t.Context()
	base, _ := baseFile(t)
	target, format := filepath.Join(t.TempDir(), "target"), "raw"
	job := cowl.CopyJob{Files: []cowl.Source{{Filename: base, Format: "raw"}}, Open: cowl.OpenOptions{Gate: cowl.AllowAll()},
		New: &cowl.CreateJob{Filename: target, Format: "qcow2", Backing: &base, BackingFormat: &format}}
	if _, err := cowl.Copy(ctx, job); !errors.Is(err, driver.ErrGate) {
		t.Fatalf("copied without leave: %v", err)
	}
	if _, err := os.Stat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target is left: %v", err)
	}
	var asked []string
	job.New.Gate = asking(&asked)
	if _, err := cowl.Copy(ctx, job); err != nil || !all(asked, "backing base.raw") {
		t.Errorf("%v, asked for %q", err, asked)
	}
}

// TestDataFileNeedsLeave: the clusters of the image are in a file that it names.
func TestDataFileNeedsLeave(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	name := filepath.Join(dir, "disk")
	if err := cowl.Create(ctx, cowl.CreateJob{Filename: name, Format: "qcow2", Size: 1 << 20, Gate: cowl.AllowAll(),
		Options: opts.Dict{"data_file": filepath.Join(dir, "data")}}); err != nil {
		t.Fatal(err)
	}
	src := cowl.Source{Filename: name, Format: "qcow2"}
	if img, err := cowl.Open(ctx, src, cowl.OpenOptions{Gate: cowl.DenyAll()}); !errors.Is(err, driver.ErrGate) {
		t.Errorf("opened without leave: %v", err)
		if img != nil {
			img.Close(ctx)
		}
	}
	var asked []string
	img, err := cowl.Open(ctx, src, cowl.OpenOptions{Gate: asking(&asked)})
	if err != nil || !all(asked, "data-file data") {
		t.Fatalf("%v, asked for %q", err, asked)
	}
	defer img.Close(ctx)
}

// TestGateMustBeGiven: no gate is not leave.
func TestGateMustBeGiven(t *testing.T) {
	base, _ := baseFile(t)
	if _, err := cowl.Open(t.Context(), cowl.Source{Filename: base, Format: "raw"}, cowl.OpenOptions{}); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("opened without a gate: %v", err)
	}
}
