// Package sshd starts servers of OpenSSH for tests.
package sshd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// Server is a running server of OpenSSH with keys and a configuration of its own, on the
// loopback.
type Server struct {
	Port int
	// Home is a home directory whose .ssh has a key that the server takes, and the
	// server's keys as known_hosts.
	Home string
	// Dir has the server's keys: key_ed25519, key_ecdsa and key_rsa.
	Dir string
	// PID is of the process that listens.
	PID int
}

// Start starts a server for the length of the test, with further lines of its
// configuration. It skips the test where there is none.
func Start(t testing.TB, config string) *Server {
	t.Helper()
	program := "/usr/sbin/sshd" // it wants to be called by its whole name
	if _, err := os.Stat(program); err != nil {
		t.Skip("sshd is not installed (openssh-server)")
	}
	testkit.Tool(t, "ssh-keygen")
	s := &Server{Dir: t.TempDir(), Home: t.TempDir()}
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where it puts processes without rights
			t.Fatal(err)
		}
	}
	dotSSH := filepath.Join(s.Home, ".ssh")
	if err := os.Mkdir(dotSSH, 0o700); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, "ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", filepath.Join(dotSSH, "id_ed25519"))
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		testkit.Run(t, "ssh-keygen", "-q", "-N", "", "-t", kind, "-f", s.Key(kind))
	}
	// Another program may take the port in between.
	for try := range 5 {
		if s.start(t, program, config) {
			s.known(t)
			return s
		}
		t.Logf("try %d: sshd does not listen", try)
	}
	t.Fatal("sshd cannot be started")
	return nil
}

// Key is the file of one of the server's keys; with ".pub" of its public part.
func (s *Server) Key(kind string) string { return filepath.Join(s.Dir, "key_"+kind) }

// URL names a file of the server.
func (s *Server) URL(path string) string { return fmt.Sprintf("ssh://127.0.0.1:%d%s", s.Port, path) }

// known writes the server's keys into known_hosts.
func (s *Server) known(t testing.TB) {
	t.Helper()
	var b strings.Builder
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		key, err := os.ReadFile(s.Key(kind) + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "[127.0.0.1]:%d %s", s.Port, key)
	}
	if err := os.WriteFile(filepath.Join(s.Home, ".ssh", "known_hosts"), []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) start(t testing.TB, program, config string) bool {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	text := fmt.Sprintf(`Port %d
ListenAddress 127.0.0.1
HostKey %s
HostKey %s
HostKey %s
PidFile none
AuthorizedKeysFile %s
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
%s
`, s.Port, s.Key("ed25519"), s.Key("ecdsa"), s.Key("rsa"), filepath.Join(s.Home, ".ssh", "id_ed25519.pub"), config)
	file := filepath.Join(s.Dir, "sshd_config")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-D", "-f", file, "-E", filepath.Join(s.Dir, "log"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.PID = cmd.Process.Pid
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	for {
		select {
		case <-ended:
			return false
		case <-time.After(20 * time.Millisecond):
		}
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Port)); err == nil {
			c.Close()
			return true
		}
	}
}
