package ganesha

import (
	"bytes"
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

// Server is a running server with a configuration of its own.
type Server struct {
	// Dir is the folder that it exports, under its own name in version 3 and as /export
	// in version 4.
	Dir string
	// Port and MountPort are its TCP ports on all addresses of its network.
	Port, MountPort int

	config, log string
	cmd         *exec.Cmd
	ended       chan struct{}
	ran         int64 // in seconds since 1970, when it had last been started
}

// Start starts a server of dir, an empty folder, for the length of the test, with further lines in the block
// of its export ("Squash = Root_Squash;"). It must run in a network and with mounts of its
// own, as testkit.WithHosts gives them, since port mappers have one port. It skips the test
// where there is no such server.
func Start(t testing.TB, dir, export string) *Server {
	t.Helper()
	testkit.Root(t)
	testkit.Tool(t, "ganesha.nfsd")
	testkit.Tool(t, "rpcbind")
	if _, err := os.Stat("/etc/mtab"); err != nil {
		t.Skipf("the NFS server needs a table of mounts, which ./test.sh setup makes: %v", err)
	}
	own := t.TempDir()
	// The file system of dir is always the same, too: one with holes and file handles.
	for _, d := range []string{"/run", "/var/lib/nfs", dir} {
		if err := syscall.Mount("tmpfs", d, "tmpfs", 0, ""); err != nil {
			t.Skipf("no mounts here: %v", err)
		}
	}
	for _, d := range []string{"/run/rpcbind", "/run/ganesha", "/var/lib/nfs/ganesha"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	allowAll(t)
	run(t, exec.Command("rpcbind", "-f", "-w"), "127.0.0.1:111")
	s := &Server{Dir: dir, Port: 2049, MountPort: 20048, config: filepath.Join(own, "ganesha.conf"), log: filepath.Join(own, "log")}
	text := fmt.Sprintf(`NFS_CORE_PARAM { Protocols = 3,4; NFS_Port = %d; MNT_Port = %d; Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = false; }
NFSv4 { RecoveryBackend = fs; Grace_Period = 5; Lease_Lifetime = 5; Minor_Versions = 1, 2; }
EXPORT { Export_Id = 1; Path = %s; Pseudo = /export; Access_Type = RW; SecType = sys; Transports = TCP; Protocols = 3,4; PrivilegedPort = false;
%s
FSAL { Name = VFS; } }
LOG { Default_Log_Level = EVENT; }
`, s.Port, s.MountPort, dir, export)
	if err := os.WriteFile(s.config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }) // after the server has ended
	s.Run(t)
	t.Cleanup(s.Kill)
	return s
}

// allowAll hides what the machine refuses to clients of its services: rpcbind answers AUTH_TOOWEAK
// to all whom hosts_access(5) does not let, and where its user cannot read the file.
func allowAll(t testing.TB) {
	t.Helper()
	const deny = "/etc/hosts.deny"
	if _, err := os.Stat(deny); err != nil {
		return
	}
	if err := syscall.Mount("/dev/null", deny, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("no mounts here: %v", err)
	}
}

// ready is what the server tells when all its ports are open and known to the port mapper.
const ready = "NFS SERVER INITIALIZED"

// Run starts the server again after Kill.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	// The server tells its instances apart by the second in which they began.
	for time.Now().Unix() <= s.ran {
		time.Sleep(20 * time.Millisecond)
	}
	before := strings.Count(s.Log(), ready)
	s.cmd = exec.Command("ganesha.nfsd", "-F", "-f", s.config, "-L", s.log, "-p", s.config+".pid", "-N", "NIV_EVENT")
	s.ended = start(t, s.cmd, fmt.Sprintf("127.0.0.1:%d", s.Port))
	for strings.Count(s.Log(), ready) == before {
		select {
		case <-s.ended:
			t.Fatalf("the server ended\n%s", s.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
	s.ran = time.Now().Unix()
}

// Kill ends the server at once, with all that it has not written to its disk.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// Pause stops the server: requests wait until it goes on.
func (s *Server) Pause(t testing.TB) { t.Helper(); testkit.Stop(t, s.cmd.Process) }

// Continue lets the server go on after Pause.
func (s *Server) Continue(t testing.TB) { s.signal(t, syscall.SIGCONT) }

func (s *Server) signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// Log is what the server has told of itself.
func (s *Server) Log() string {
	b, _ := os.ReadFile(s.log)
	return string(b)
}

// run runs a program for the length of the test, which listens at an address.
func run(t testing.TB, cmd *exec.Cmd, address string) {
	t.Helper()
	ended := start(t, cmd, address)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
}

// start starts a program and waits until it listens.
func start(t testing.TB, cmd *exec.Cmd, address string) chan struct{} {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	for {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return ended
		}
		select {
		case <-ended:
			t.Fatalf("%s ends at once\n%s", cmd.Path, output.Bytes())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
