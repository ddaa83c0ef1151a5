package nfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/ganesha"
)

// TestRestart: a server that is restarted while a disk is written that need not be flushed loses nothing,
// unless everything would be written again from the start.
func TestRestart(t *testing.T) {
	if !testkit.WithHosts(t, "127.0.0.1 localhost\n") {
		return
	}
	s := ganesha.Start(t, t.TempDir(), "Squash = No_Root_Squash;")
	name := "nfs://127.0.0.1" + s.Dir + "/disk"
	want := make([]byte, 4<<20)
	testkit.Fill(testkit.Rand(1), want)
	if err := New().(driver.Creator).Create(t.Context(), &driver.CreateRequest{Filename: name, Size: int64(len(want))}); err != nil {
		t.Fatal(err)
	}
	given, err := parseName(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := New().Open(t.Context(), &driver.OpenRequest{Options: given, Access: driver.Access{Write: true}, Cache: driver.Cache{NoFlush: true}})
	if err != nil {
		t.Fatal(err)
	}
	half := len(want) / 2
	if _, err := n.(driver.Storage).WriteAt(t.Context(), want[:half], 0); err != nil {
		t.Fatal(err)
	}
	// Once it is in the server's file, what the server had of it is lost as if its machine had gone down.
	path := filepath.Join(s.Dir, "disk")
	for got := []byte(nil); len(got) < half || !bytes.Equal(got[:half], want[:half]); {
		if got, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	s.Kill()
	if err := os.WriteFile(path, make([]byte, len(want)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Run(t)
	_, err = n.(driver.Storage).WriteAt(t.Context(), want[half:], int64(half))
	if err = errors.Join(err, n.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("other data, %v", err)
	}
}
