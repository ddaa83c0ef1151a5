//go:build linux

package qemuga

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestWaitForPath waits for a file in a folder that does not exist either: it ends when
// the file is there, before its time is over, and when the context ends.
func TestWaitForPath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "port")
	done := make(chan bool)
	go func() { done <- waitForPath(t.Context(), path) }()
	for _, make := range []func() error{
		func() error { return os.MkdirAll(filepath.Dir(path), 0o755) },
		func() error { return os.WriteFile(filepath.Join(dir, "other"), nil, 0o644) },
		func() error { return os.WriteFile(path, nil, 0o644) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case ok := <-done:
		if !ok {
			t.Error("the context has not ended")
		}
	case <-time.After(watchInterval / 2):
		t.Error("a file that appears is not seen")
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- waitForPath(ctx, path+".other") }()
	cancel()
	if <-done {
		t.Error("the context has ended")
	}
}
