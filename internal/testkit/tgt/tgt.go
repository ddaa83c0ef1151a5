// Package tgt starts servers of tgt, the iSCSI target, for tests.
package tgt

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// Name is that of the target.
const Name = "iqn.2026-01.test:t"

// Unit is a logical unit on a file.
type Unit struct {
	Number   int
	Path     string
	Block    int // bytes, 0 is 512
	Thin     bool
	ReadOnly bool
	Type     string // "" is disk; "cd"
}

// Server is a running server, with one target.
type Server struct {
	Address string // host:port
	// User and Secret are for CHAP, if User is not empty, and TargetUser and TargetSecret
	// for that of the target.
	User, Secret, TargetUser, TargetSecret string
	// Params are parameters of the target, such as HeaderDigest=CRC32C.
	Params map[string]string

	dir     string
	control string // number of the control port
	units   []Unit
	cmd     *exec.Cmd
	ended   chan struct{}
}

// controls numbers the control ports of a process. Its sockets are in a directory of the
// test's own, so that the number only has to be unique in it.
var controls atomic.Int32

// Start starts a server for the length of the test. It skips the test where there is none.
func Start(t testing.TB, units ...Unit) *Server {
	t.Helper()
	return New(t).Run(t, units...)
}

// New prepares a server. Fields may be set before Run.
func New(t testing.TB) *Server {
	t.Helper()
	for _, program := range []string{"tgtd", "tgtadm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (tgt)", program)
		}
	}
	testkit.Root(t)
	return &Server{dir: t.TempDir(), control: fmt.Sprint(1000 + controls.Add(1)), Params: map[string]string{}}
}

// Run starts the server.
func (s *Server) Run(t testing.TB, units ...Unit) *Server {
	t.Helper()
	s.units = units
	t.Cleanup(s.Kill)
	for try := range 5 { // another program may take the port in between
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s.Address = l.Addr().String()
		l.Close()
		if err = s.start(); err == nil {
			return s
		}
		t.Logf("try %d: %v", try, err)
		s.Kill()
	}
	t.Fatal("tgtd cannot be started")
	return nil
}

// Kill ends the server at once, as a crash does.
func (s *Server) Kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		<-s.ended
		s.cmd = nil
	}
}

// Restart starts the server again, after Kill, with the same units.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

// PID is that of the server.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// URL names a unit.
func (s *Server) URL(unit int) string {
	return fmt.Sprintf("iscsi://%s/%s/%d", s.Address, Name, unit)
}

func (s *Server) environ() []string {
	return append(os.Environ(), "TGT_IPC_SOCKET="+filepath.Join(s.dir, "ipc"))
}

// start starts the process and tells it of its target.
func (s *Server) start() error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("tgtd", "-f", "-C", s.control, "--iscsi", "portal="+s.Address)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.environ(), log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	s.cmd, s.ended = cmd, ended
	for s.admin("--mode", "system", "--op", "show") != nil {
		select {
		case <-ended:
			return fmt.Errorf("tgtd ends at once")
		case <-time.After(20 * time.Millisecond):
		}
	}
	lld := func(args ...string) {
		if err == nil {
			err = s.admin(append([]string{"--lld", "iscsi"}, args...)...)
		}
	}
	lld("--op", "new", "--mode", "target", "--tid", "1", "-T", Name)
	for key, value := range s.Params {
		lld("--op", "update", "--mode", "target", "--tid", "1", "-n", key, "-v", value)
	}
	for _, u := range s.units {
		n := fmt.Sprint(u.Number)
		args := []string{"--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", n, "-b", u.Path}
		if u.Block > 0 {
			args = append(args, "--blocksize", fmt.Sprint(u.Block))
		}
		if u.Type != "" {
			args = append(args, "--device-type", u.Type)
		}
		lld(args...)
		for param, on := range map[string]bool{"thin_provisioning": u.Thin, "readonly": u.ReadOnly} {
			if on {
				lld("--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", n, "--params", param+"=1")
			}
		}
	}
	for _, a := range []struct{ user, secret, outgoing string }{{s.User, s.Secret, ""}, {s.TargetUser, s.TargetSecret, "--outgoing"}} {
		if a.user == "" {
			continue
		}
		lld("--op", "new", "--mode", "account", "--user", a.user, "--password", a.secret)
		bind := []string{"--op", "bind", "--mode", "account", "--tid", "1", "--user", a.user}
		if a.outgoing != "" {
			bind = append(bind, a.outgoing)
		}
		lld(bind...)
	}
	lld("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
	return err
}

// admin runs tgtadm.
func (s *Server) admin(args ...string) error {
	cmd := exec.Command("tgtadm", append([]string{"-C", s.control}, args...)...)
	cmd.Env = s.environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tgtadm %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
