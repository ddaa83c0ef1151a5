package ssh_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/protocol/ssh"
)

// TestCreateFails: an image that cannot be made leaves no new file on the server, and a
// file that was there before is not removed.
func TestCreateFails(t *testing.T) {
	s := newServer(t, nil)
	reg := block.NewRegistry(qcow2.New(), ssh.New())
	for _, before := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "disk")
		if before {
			if err := os.WriteFile(path, []byte("something"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		// The refcount table of so large a disk in so small clusters is refused when the
		// file is there.
		err := block.Create(t.Context(), reg, block.CreateRequest{Filename: s.url(path) + "?host_key_check=no", Format: "qcow2", Size: 1 << 50,
			Options: map[string]any{"cluster_size": "512"}, Gate: driver.DenyAll})
		if err == nil {
			t.Fatal("the image was made")
		}
		_, err = os.Stat(path)
		if got := err == nil; got != before {
			t.Errorf("the file was there before: %v; now: %v (%v)", before, got, err)
		}
	}
}

// TestCreateMade: whether the file is new is told, and what was made can be removed.
func TestCreateMade(t *testing.T) {
	s := newServer(t, nil)
	d := ssh.New().(interface {
		driver.Creator
		driver.Deleter
	})
	path := filepath.Join(t.TempDir(), "disk")
	for _, want := range []bool{true, false} {
		made := !want
		if err := d.Create(t.Context(), &driver.CreateRequest{Filename: s.url(path), Size: 4096, Made: &made}); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Size() != 4096 || made != want {
			t.Errorf("made: %v, not %v (%v)", made, want, err)
		}
	}
	if err := d.Delete(t.Context(), s.url(path)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there still: %v", err)
	}
	if err := d.Delete(t.Context(), s.url(path)); !errors.Is(err, driver.ErrNotExist) {
		t.Errorf("removed again: %v", err)
	}
}
