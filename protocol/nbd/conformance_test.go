package nbd_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/nbd/export"
	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
	"github.com/cowl-disk/cowl/protocol/nbd"
)

// serve exports a new disk in memory and returns the name that opens it.
func serve(t testing.TB, size int64) string {
	t.Helper()
	img, err := block.Open(context.Background(), block.NewRegistry(mem.New()), block.Source{Options: opts.Dict{"driver": "mem", "size": size}},
		block.OpenOptions{Write: true, Unmap: true, Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close(context.Background()) }) // after the server has ended
	dev, err := export.New(context.Background(), img, export.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return serveDevice(t, dev)
}

// serveDevice exports a device and returns the name that opens it.
func serveDevice(t testing.TB, dev server.Device) string {
	t.Helper()
	srv := server.New(server.Config{})
	if err := srv.AddExport(&server.Export{Device: dev}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(context.Background(), l)
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = srv.Shutdown(ctx)
		<-done
	})
	return "nbd+unix:///?socket=" + socket
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Harness{Driver: nbd.New(), Make: serve})
}
