package file

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// TestFlushFailureStays: after a flush has failed, a later one must not claim
// that all is well, even if the system does.
func TestFlushFailureStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	for _, c := range []struct {
		name  string
		cache driver.Cache
		fails bool
	}{{"writeback", driver.Cache{}, true}, {"unsafe", driver.Cache{NoFlush: true}, false}} {
		t.Run(c.name, func(t *testing.T) {
			ctx := context.Background()
			if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			opened, err := New().Open(ctx, &driver.OpenRequest{Options: opts.Dict{"filename": path}, Access: driver.Access{Write: true}, Cache: c.cache})
			if err != nil {
				t.Fatal(err)
			}
			n := opened.(*node)
			defer n.Close(ctx)
			good := n.f
			bad, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			bad.Close()
			n.f = bad
			first := n.Flush(ctx)
			n.f = good
			second := n.Flush(ctx)
			if (first != nil) != c.fails || second != first {
				t.Fatalf("%v, then %v", first, second)
			}
		})
	}
}

// TestFlushOfWhatChanged: the system is asked at the first flush, which covers what others
// wrote before, and after each kind of change; and always where the file belongs to the caller.
func TestFlushOfWhatChanged(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	open := func(t *testing.T, name string) *node {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, 64<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		opened, err := New().Open(ctx, &driver.OpenRequest{Options: opts.Dict{"filename": path}, Access: driver.Access{Write: true}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { opened.Close(ctx) })
		return opened.(*node)
	}
	// asks says whether a flush asks the system, which a closed file lets fail.
	asks := func(t *testing.T, n *node) bool {
		t.Helper()
		good := n.f
		bad, err := os.Open(good.Name())
		if err != nil {
			t.Fatal(err)
		}
		bad.Close()
		n.f = bad
		err = n.Flush(ctx)
		n.f = good
		return err != nil
	}
	for name, c := range map[string]struct {
		change func(n, other *node) error
		fails  bool // the change, which may have been made in part
		want   bool
	}{
		"nothing": {change: func(n, _ *node) error { return nil }},
		"read": {change: func(n, _ *node) error {
			_, err := n.ReadAt(ctx, make([]byte, 10), 0)
			return err
		}},
		"write": {change: func(n, _ *node) error {
			_, err := n.WriteAt(ctx, []byte("x"), 0)
			return err
		}, want: true},
		"write that fails": {change: func(n, _ *node) error {
			good := n.f
			defer func() { n.f = good }()
			bad, err := os.Open(good.Name())
			if err != nil {
				return nil
			}
			defer bad.Close()
			n.f = bad
			_, err = n.WriteAt(ctx, []byte("x"), 0)
			return err
		}, fails: true, want: true},
		"zeroes":  {change: func(n, _ *node) error { return n.WriteZeroes(ctx, 0, 4096, 0) }, want: true},
		"discard": {change: func(n, _ *node) error { _ = n.Discard(ctx, 0, 4096); return nil }, want: true},
		"resize":  {change: func(n, _ *node) error { return n.Resize(ctx, 1<<20, driver.ResizeOptions{}) }, want: true},
		"copy": {change: func(n, other *node) error {
			_, _ = n.CopyFrom(ctx, other, 0, 0, 4096, driver.CopyOffload) // not everywhere
			return nil
		}, want: true},
		"a file of the caller": {change: func(n, _ *node) error { n.borrowed = &handle{}; return nil }, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			n, other := open(t, "a"), open(t, "b")
			if err := n.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			if err := c.change(n, other); (err != nil) != c.fails {
				t.Fatal(err)
			}
			if got := asks(t, n); got != c.want {
				t.Errorf("asks the system: %v", got)
			}
			n.borrowed = nil
		})
	}
	if n := open(t, "c"); !asks(t, n) {
		t.Error("the first flush does not ask the system")
	}
}
