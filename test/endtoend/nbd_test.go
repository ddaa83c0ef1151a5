package endtoend

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/export"
	"github.com/cowl-disk/cowl/nbd/server"
)

// nbdSocket returns the path of a socket that is short enough for the system.
func nbdSocket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cowl-nbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// serveImage exports an image with our server and returns its socket. The export
// ends with the test, or when stop is called.
func serveImage(t testing.TB, file, format string, write bool, e server.Export, cfg server.Config) (sock string, stop func()) {
	t.Helper()
	ctx := context.Background()
	img, err := block.Open(ctx, block.NewRegistry(drivers.All()...), block.Source{Filename: file, Format: format},
		block.OpenOptions{Write: write, Gate: driver.AllowAll, Unmap: true})
	if err != nil {
		t.Fatal(err)
	}
	dev, err := export.New(ctx, img, export.Options{AllocationDepth: true})
	if err != nil {
		t.Fatal(err)
	}
	e.Device, e.MultiConn = dev, true
	s := server.New(cfg)
	if err := s.AddExport(&e); err != nil {
		t.Fatal(err)
	}
	sock = nbdSocket(t)
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(ctx, l)
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		end, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := s.Shutdown(end); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := img.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	t.Cleanup(stop)
	return sock, stop
}

// activate runs a server that takes over a listening socket, as systemd has it, so
// that there is nothing to wait for. It ends with the test, or when stop is called.
func activate(t testing.TB, name string, args ...string) (sock string, stop func()) {
	t.Helper()
	path := testkit.Tool(t, name)
	sock = nbdSocket(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	var log bytes.Buffer
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`, path}, args...)...)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cmd.Process.Signal(syscall.SIGTERM)
			cmd.Wait()
			if t.Failed() && log.Len() > 0 {
				t.Logf("%s: %s", name, log.String())
			}
		})
	}
	t.Cleanup(stop)
	return sock, stop
}

// qemuNBD exports an image with QEMU.
func qemuNBD(t testing.TB, file, format string, args ...string) (sock string, stop func()) {
	t.Helper()
	return activate(t, "qemu-nbd", append(append([]string{"-t", "-f", format}, args...), file)...)
}

// nbdkit runs a server of many faces.
func nbdkit(t testing.TB, args ...string) (sock string) {
	t.Helper()
	sock, _ = activate(t, "nbdkit", append([]string{"-f"}, args...)...)
	return sock
}

func nbdURI(sock, name string) string { return "nbd+unix:///" + name + "?socket=" + sock }

// dialNBD connects our client.
func dialNBD(t testing.TB, sock string, cfg client.Config) *client.Conn {
	t.Helper()
	cfg.Network, cfg.Address = "unix", sock
	c, err := client.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// nbdImage makes an image with data, holes and zeroes in it, on a backing file.
func nbdImage(t testing.TB, format string) string {
	t.Helper()
	testkit.Tool(t, "qemu-img")
	dir := t.TempDir()
	name := filepath.Join(dir, "disk."+format)
	if format == "raw" {
		testkit.Run(t, "qemu-img", "create", "-q", "-f", "raw", name, "64M")
		testkit.Run(t, "qemu-io", "-f", "raw", "-c", "write -P 1 1M 1M", "-c", "write -P 2 8M 3M", "-c", "write -P 3 63M 1M", name)
		return name
	}
	base := filepath.Join(dir, "base.qcow2")
	testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", base, "40M")
	testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 2M 2M", "-c", "write -z 5M 1M", "-c", "write -P 8 39M 1M", base)
	testkit.Run(t, "qemu-img", "create", "-q", "-f", format, "-b", base, "-F", "qcow2", name, "64M")
	testkit.Run(t, "qemu-io", "-f", format, "-c", "write -P 1 1M 64k", "-c", "write -P 2 8M 3M", "-c", "write -z 3M 512k",
		"-c", "write -z -u 9M 64k", "-c", "write -P 3 63M 1M", name)
	return name
}
