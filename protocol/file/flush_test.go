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
