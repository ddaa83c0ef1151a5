package nfs_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/ganesha"
	"github.com/cowl-disk/cowl/protocol/nfs"
)

// TestConformance runs the suite against nfs-ganesha.
func TestConformance(t *testing.T) {
	if !testkit.WithHosts(t, "127.0.0.1 localhost\n") {
		return
	}
	s := ganesha.Start(t, t.TempDir(), "Squash = No_Root_Squash;")
	var files atomic.Int64
	for i, c := range []struct{ name, dir, query string }{
		{"3", s.Dir, "?version=3"}, {"4.2", "/export", "?version=4"}, {"4.1", "/export", "?version=4.1"},
		{"3 with a cache", s.Dir, "?readahead=131072&pagecache=64"},
	} {
		if !testkit.Sample(i, 2) || testkit.Race && i > 0 {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			drivertest.Run(t, drivertest.Harness{Driver: nfs.New(), Light: true, NewName: func(testing.TB) string {
				return fmt.Sprintf("nfs://127.0.0.1%s/file%d%s", c.dir, files.Add(1), c.query)
			}})
		})
	}
}
