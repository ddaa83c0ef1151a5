package cowl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

func TestOverlay(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	base, overlay := filepath.Join(dir, "base.raw"), filepath.Join(dir, "overlay.qcow2")
	want := bytes.Repeat([]byte("cowl"), 1<<18)
	if err := os.WriteFile(base, want, 0o644); err != nil {
		t.Fatal(err)
	}
	name, format := "base.raw", "raw"
	job := cowl.CreateJob{Filename: overlay, Format: "qcow2", Size: -1, Backing: &name, BackingFormat: &format, Gate: cowl.AllowAll()}
	if err := cowl.Create(ctx, job); err != nil {
		t.Fatal(err)
	}

	_, err := cowl.Open(ctx, cowl.Source{Filename: overlay, Format: "qcow2"}, cowl.OpenOptions{Gate: cowl.DenyAll()})
	if !errors.Is(err, driver.ErrGate) {
		t.Fatalf("opened without leave: %v", err)
	}

	img, err := cowl.Open(ctx, cowl.Source{Filename: overlay, Format: "qcow2"}, cowl.OpenOptions{Write: true, Gate: cowl.AllowAll()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt(ctx, []byte("OVERLAY"), 100); err != nil {
		t.Fatal(err)
	}
	copy(want[100:], "OVERLAY")
	got := make([]byte, len(want))
	if _, err := img.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read back something else (%v)", err)
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestCreateNeedsLeave names a backing file that exists: only the gate refuses it.
func TestCreateNeedsLeave(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "base.raw"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	name, format := "base.raw", "raw"
	job := cowl.CreateJob{Filename: filepath.Join(dir, "x"), Format: "qcow2", Backing: &name, BackingFormat: &format}
	if err := cowl.Create(t.Context(), job); !errors.Is(err, driver.ErrGate) {
		t.Fatalf("created without leave: %v", err)
	}
	if _, err := os.Stat(job.Filename); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the image was made all the same: %v", err)
	}
	job.Gate = cowl.GateFunc(func(_ context.Context, parent, role, target string) error {
		if parent != job.Filename || role != "backing" || target != filepath.Join(dir, "base.raw") {
			t.Errorf("asked for %s of %s: %s", role, parent, target)
		}
		return nil
	})
	if err := cowl.Create(t.Context(), job); err != nil {
		t.Fatal(err)
	}
}

func ExampleOpen() {
	ctx := context.Background()
	img, err := cowl.Open(ctx, cowl.Source{Filename: "null-co://"}, cowl.OpenOptions{Gate: cowl.DenyAll()})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer img.Close(ctx)
	fmt.Println(img.Format(), img.Size())
	// Output: raw 1073741824
}

// An encrypted image is made and opened with a passphrase that an option names.
func ExampleSecrets() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "cowl-example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	name, keys := filepath.Join(dir, "disk.qcow2"), cowl.Secrets(map[string]string{"disk": "correct horse"})
	err = cowl.Create(ctx, cowl.CreateJob{Filename: name, Format: "qcow2", Size: 1 << 20, Objects: keys,
		Options: opts.Dict{"encrypt.format": "luks", "encrypt.key-secret": "disk", "encrypt.iter-time": "0"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	img, err := cowl.Open(ctx, cowl.Source{Filename: name, Format: "qcow2", Options: opts.Dict{"encrypt.key-secret": "disk"}},
		cowl.OpenOptions{Gate: cowl.DenyAll(), Objects: keys})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer img.Close(ctx)
	fmt.Println(img.Size(), img.Traits().Encrypted)
	// Output: 1048576 true
}
