package server_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
)

// TestInherited runs itself as a server that is given its socket.
func TestInherited(t *testing.T) {
	if os.Getenv("COWL_TEST_INHERIT") != "" {
		list, err := server.Inherited()
		if err != nil || len(list) != 1 || os.Getenv("LISTEN_FDS") != "" {
			t.Fatalf("%v, %v", list, err)
		}
		gone := make(chan struct{}, 1)
		s := server.New(server.Config{ClientGone: func(bool, int) { gone <- struct{}{} }})
		if err := s.AddExport(&server.Export{Device: newMemory(4096)}); err != nil {
			t.Fatal(err)
		}
		go s.Serve(t.Context(), list[0])
		<-gone
		return
	}
	if runtime.GOOS == "windows" {
		t.Skip("no inherited sockets")
	}
	sock := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" -test.run=TestInherited`, os.Args[0])
	cmd.Env = append(os.Environ(), "COWL_TEST_INHERIT=1")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := dial(t, sock, func(c *client.Config) {})
	if c.Size() != 4096 {
		t.Errorf("size %d", c.Size())
	}
	c.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if list, err := server.Inherited(); list != nil || err != nil {
		t.Errorf("%v, %v", list, err)
	}
}

// TestSocketFile: a listener removes its own socket, and not the one that has taken its
// place.
func TestSocketFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	old, err := server.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	next, err := server.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := old[0].Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket of the second listener is gone: %v", err)
	}
	if err := next[0].Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left behind")
	}
}
