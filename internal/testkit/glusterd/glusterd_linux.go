package glusterd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

const (
	// Address is that of the server, on which testkit.WithHosts has it.
	Address = "10.99.0.1"
	// Volume is the name of its volume.
	Volume = "vol"
	// Socket is the server's Unix socket.
	Socket = "/var/run/glusterd.socket"

	port = "24007"
)

const config = `volume management
    type mgmt/glusterd
    option working-directory %[1]s/work
    option run-directory %[1]s/run
    option transport-type socket
    option transport.socket.bind-address %[2]s
    option transport.socket.listen-port %[3]s
    option transport.socket.read-fail-log off
    option ping-timeout 0
    option event-threads 1
    option base-port 49152
    option max-port 49200
end-volume
`

// Server is a running server with a volume of one brick.
type Server struct {
	// Brick is the folder with the files of the volume.
	Brick string

	dir string
}

// Start starts a server for the length of the test, which takes some twelve seconds. It must run in a network
// and with mounts of its own, as testkit.WithHosts gives them: the server has one address and
// fixed folders. It skips the test where there is none.
func Start(t testing.TB) *Server {
	t.Helper()
	testkit.Root(t)
	testkit.Tool(t, "glusterd")
	testkit.Tool(t, "gluster")
	s := &Server{dir: t.TempDir()}
	s.Brick = filepath.Join(s.dir, "brick", "b")
	if err := os.MkdirAll("/var/log/glusterfs", 0o755); err != nil {
		t.Fatal(err)
	}
	// The file system of the brick is always the same: one with holes and all extended attributes.
	for _, d := range []string{"/run", "/var/log/glusterfs", s.dir} {
		if err := syscall.Mount("tmpfs", d, "tmpfs", 0, ""); err != nil {
			t.Skipf("no mounts here: %v", err)
		}
	}
	t.Cleanup(func() { _ = syscall.Unmount(s.dir, syscall.MNT_DETACH) })
	for _, d := range []string{"/run/gluster", s.at("work"), s.at("run"), s.at("brick")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.at("glusterd.vol"), fmt.Appendf(nil, config, s.dir, Address, port), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("glusterd", "-N", "-f", s.at("glusterd.vol"), "-p", s.at("glusterd.pid"), "-l", s.at("glusterd.log"), "-L", "INFO")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		s.KillBrick(t)
		_ = cmd.Process.Kill()
		<-ended
	})
	for {
		if c, err := net.Dial("tcp", net.JoinHostPort(Address, port)); err == nil {
			c.Close()
			break
		}
		select {
		case <-ended:
			b, _ := os.ReadFile(s.at("glusterd.log"))
			t.Fatalf("glusterd ends at once\n%s", b)
		case <-time.After(20 * time.Millisecond):
		}
	}
	s.command(t, "volume", "create", Volume, Address+":"+s.Brick, "force")
	s.command(t, "volume", "set", Volume, "server.allow-insecure", "on")
	s.StartBrick(t)
	return s
}

func (s *Server) at(name string) string { return filepath.Join(s.dir, name) }

// command has the server do something.
func (s *Server) command(t testing.TB, args ...string) {
	t.Helper()
	testkit.Run(t, "gluster", append([]string{"--mode=script", "--log-file=" + s.at("cli.log")}, args...)...)
}

// URL is the name of a file in the volume.
func (s *Server) URL(path string) string {
	return "gluster://" + Address + "/" + Volume + "/" + path
}

// StartBrick starts the process that serves the files, after KillBrick, too.
func (s *Server) StartBrick(t testing.TB) {
	t.Helper()
	s.command(t, "volume", "start", Volume, "force")
}

// brick is the process that serves the files, 0 if there is none.
func (s *Server) brick() (pid int) {
	files, _ := filepath.Glob("/run/gluster/vols/" + Volume + "/*.pid")
	more, _ := filepath.Glob(s.at("run/vols/" + Volume + "/*.pid"))
	for _, file := range append(files, more...) {
		b, err := os.ReadFile(file)
		if err == nil {
			_, _ = fmt.Sscan(strings.TrimSpace(string(b)), &pid)
		}
	}
	return pid
}

// KillBrick ends the process that serves the files at once.
func (s *Server) KillBrick(t testing.TB) { s.signal(t, syscall.SIGKILL) }

// Pause stops the process that serves the files: requests wait until it goes on.
func (s *Server) Pause(t testing.TB) {
	t.Helper()
	p, err := os.FindProcess(s.brick())
	if err != nil {
		t.Fatal(err)
	}
	testkit.Stop(t, p)
}

// Continue lets it go on after Pause.
func (s *Server) Continue(t testing.TB) { s.signal(t, syscall.SIGCONT) }

func (s *Server) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	pid := s.brick()
	if pid == 0 {
		t.Error("the process that serves the files is not known")
		return
	}
	if err := syscall.Kill(pid, sig); err != nil && err != syscall.ESRCH {
		t.Error(err)
	}
}
