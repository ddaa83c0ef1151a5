package gluster_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/internal/native"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/glusterd"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/gluster"
)

// TestServer has everything done by a server of Gluster, which takes long to start.
func TestServer(t *testing.T) {
	if !testkit.Long() {
		t.Skip("COWL_LONG is not set")
	}
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("there is no second program for this system")
	}
	testkit.Tool(t, "glusterd")
	if !testkit.WithHosts(t, "127.0.0.1 localhost\n") {
		return
	}
	program := filepath.Join(t.TempDir(), "cowl-native")
	if err := testkit.Build(program, "./cmd/cowl-native"); err != nil {
		t.Fatal(err)
	}
	t.Setenv(native.Variable, program)
	s := glusterd.Start(t)
	t.Run("Conformance", func(t *testing.T) {
		var n atomic.Int32
		drivertest.Run(t, drivertest.Harness{Driver: gluster.New(), Light: true, NewName: func(testing.TB) string {
			return s.URL(fmt.Sprintf("disk%d", n.Add(1)))
		}})
	})
	t.Run("Disk", func(t *testing.T) { disk(t, s) })
	t.Run("Servers", func(t *testing.T) { servers(t, s) })
	t.Run("Stopped", func(t *testing.T) { stopped(t, s) })
}

func create(t *testing.T, name string, size int64, o opts.Dict) (made bool) {
	t.Helper()
	if err := gluster.New().(driver.Creator).Create(t.Context(), &driver.CreateRequest{Filename: name, Size: size, Options: o, Made: &made}); err != nil {
		t.Fatal(err)
	}
	return made
}

func open(t *testing.T, o opts.Dict, write bool) (driver.Storage, error) {
	t.Helper()
	n, err := gluster.New().Open(t.Context(), &driver.OpenRequest{Options: o, Access: driver.Access{Write: write},
		Env: &driver.Env{Warn: func(s string) { t.Log(s) }}})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = n.Close(context.Background()) })
	return n.(driver.Storage), nil
}

func disk(t *testing.T, s *glusterd.Server) {
	ctx := t.Context()
	url := s.URL("x")
	if !create(t, url, 10<<20, nil) || create(t, url, 1<<20, nil) {
		t.Error("a file is there or is not")
	}
	n, err := open(t, opts.Dict{"filename": url}, true)
	if err != nil {
		t.Fatal(err)
	}
	if n.Size() != 1<<20 {
		t.Errorf("%d bytes", n.Size())
	}
	want := make([]byte, 3<<20+77)
	testkit.Fill(testkit.Rand(1), want[2<<20:])
	if _, err := n.WriteAt(ctx, want[2<<20:], 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := n.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := n.ReadAt(ctx, got, 0); err != nil || string(got) != string(want) {
		t.Errorf("other data, %v", err)
	}
	if e, err := n.Map(ctx, 100, 1<<40); err != nil || e.Kind != driver.ExtentZero || e.Length != 2<<20-100 {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err := n.Map(ctx, 2<<20, 1<<40); err != nil || e.Kind != driver.ExtentData || e.Length != 1<<20+77 {
		t.Errorf("%+v, %v", e, err)
	}
	z := n.(driver.ZeroWriter)
	if err := z.WriteZeroes(ctx, 2<<20, 512<<10, driver.ZeroMayUnmap); err != nil {
		t.Error(err)
	}
	if err := z.WriteZeroes(ctx, 4<<20, 1<<20, driver.ZeroMayUnmap); err != nil || n.Size() != 5<<20 {
		t.Errorf("%v, %d bytes", err, n.Size())
	}
	if e, err := n.Map(ctx, 0, 1<<40); err != nil || e.Kind != driver.ExtentZero || e.Length != 2<<20+512<<10 {
		t.Errorf("%+v, %v", e, err)
	}
	usage := func() int64 {
		u, err := n.(driver.SpaceTeller).DiskUsage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	before := usage()
	r := n.(driver.Resizer)
	if err := r.Resize(ctx, 6<<20, driver.ResizeOptions{Prealloc: driver.PreallocFull}); err != nil || n.Size() != 6<<20 || usage() < before+1<<20 {
		t.Errorf("%v, %d bytes, usage %d, then %d", err, n.Size(), before, usage())
	}
	if err := r.Resize(ctx, 7<<20, driver.ResizeOptions{Prealloc: driver.PreallocFalloc}); err != nil || n.Size() != 7<<20 || usage() < before+2<<20 {
		t.Errorf("%v, %d bytes, usage %d, then %d", err, n.Size(), before, usage())
	}
	if err := r.Resize(ctx, 1<<20, driver.ResizeOptions{Prealloc: driver.PreallocFull}); !errors.Is(err, driver.ErrUnsupported) {
		t.Error(err)
	}
	create(t, s.URL("full"), 1<<20, opts.Dict{"preallocation": "full"})
	if n, err = open(t, opts.Dict{"filename": s.URL("full")}, false); err != nil {
		t.Fatal(err)
	}
	if usage() < 1<<20 {
		t.Errorf("%d bytes", usage())
	}
	if _, err := open(t, opts.Dict{"filename": s.URL("none")}, false); !errors.Is(err, driver.ErrNotExist) {
		t.Error(err)
	}
	if err := gluster.New().(driver.Deleter).Delete(ctx, s.URL("full")); err != nil {
		t.Error(err)
	}
	if err := gluster.New().(driver.Deleter).Delete(ctx, s.URL("full")); !errors.Is(err, driver.ErrNotExist) {
		t.Error(err)
	}
}

// servers reaches a file in all ways, and by the second server where the first one is dead.
func servers(t *testing.T, s *glusterd.Server) {
	create(t, s.URL("y"), 1<<20, nil)
	for _, o := range []opts.Dict{
		{"filename": "gluster+tcp://" + glusterd.Address + ":24007/" + glusterd.Volume + "/y"},
		{"filename": "gluster+unix:///" + glusterd.Volume + "/y?socket=" + glusterd.Socket},
		{"filename": "gluster+rdma://" + glusterd.Address + "/" + glusterd.Volume + "/y"},
		{"volume": glusterd.Volume, "path": "/y", "server.0.type": "tcp", "server.0.host": glusterd.Address, "server.0.port": "24009",
			"server.1.type": "inet", "server.1.host": glusterd.Address, "server.1.port": "24007"},
	} {
		if n, err := open(t, o, false); err != nil || n.Size() != 1<<20 {
			t.Errorf("%v: %v", o, err)
		}
	}
	_, err := open(t, opts.Dict{"filename": "gluster://" + glusterd.Address + "/none/y"}, false)
	var hint interface{ Hint() string }
	if err == nil || err.Error() != "gluster connection for volume none, path y failed to connect" || !errors.As(err, &hint) ||
		hint.Hint() != "hint: failed on host "+glusterd.Address+" and port 24007 Please refer to gluster logs for more info" {
		t.Error(err)
	}
}

// stopped stops the server in the middle of requests: one with a time-out fails, one
// without waits until the server goes on.
func stopped(t *testing.T, s *glusterd.Server) {
	create(t, s.URL("z"), 1<<20, nil)
	waiting, err := open(t, opts.Dict{"filename": s.URL("z")}, true)
	if err != nil {
		t.Fatal(err)
	}
	bounded, err := open(t, opts.Dict{"filename": s.URL("z"), "timeout": "1"}, true)
	if err != nil {
		t.Fatal(err)
	}
	s.Pause(t)
	done := make(chan error)
	go func() { done <- waiting.Flush(t.Context()) }()
	if err := bounded.Flush(t.Context()); !errors.Is(err, driver.ErrTimeout) {
		t.Error(err)
	}
	s.Continue(t)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
