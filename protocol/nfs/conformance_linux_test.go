package nfs_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
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

// TestKept: what is made and then opened is mounted once, unless another user opens it.
func TestKept(t *testing.T) {
	if !testkit.WithHosts(t, "127.0.0.1 localhost\n") {
		return
	}
	s := ganesha.Start(t, t.TempDir(), "Squash = No_Root_Squash;")
	port, mounts := counting(t, fmt.Sprintf("127.0.0.1:%d", s.MountPort))
	name := fmt.Sprintf("nfs://127.0.0.1%s/disk?version=3&nfsport=%d&mountport=%d&connections=1", s.Dir, s.Port, port)
	d := nfs.New()
	for _, c := range []struct {
		what, open string
		keep       bool
		want       int64
	}{
		{"kept", name, true, 1},
		{"not kept", name, false, 2},
		{"another user", name + "&uid=1", true, 2},
	} {
		before := mounts.Load()
		var connections *driver.Connections
		if c.keep {
			connections = &driver.Connections{}
		}
		env := &driver.Env{Warn: func(string) {}, Connections: connections}
		if err := d.(driver.Creator).Create(t.Context(), &driver.CreateRequest{Filename: name, Size: 4096, Env: env}); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(s.Dir, "disk"), 0o644); err != nil {
			t.Fatal(err)
		}
		given, err := d.(driver.FilenameParser).ParseFilename(c.open)
		if err != nil {
			t.Fatal(err)
		}
		n, err := d.Open(t.Context(), &driver.OpenRequest{Options: given, Env: env})
		if err != nil {
			t.Fatal(err)
		}
		if n.Size() != 4096 {
			t.Errorf("%s: %d bytes", c.what, n.Size())
		}
		if err := n.Close(t.Context()); err != nil {
			t.Error(err)
		}
		connections.Close()
		if got := mounts.Load() - before; got != c.want {
			t.Errorf("%s: mounted %d times, not %d", c.what, got, c.want)
		}
	}
}

// counting passes connections on to an address, and counts them.
func counting(t *testing.T, to string) (port int, n *atomic.Int64) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n = new(atomic.Int64)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			up, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			running.Go(func() { _, _ = io.Copy(up, c); up.Close() })
			running.Go(func() { _, _ = io.Copy(c, up); c.Close() })
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return l.Addr().(*net.TCPAddr).Port, n
}
