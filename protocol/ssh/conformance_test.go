package ssh_test

import (
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/sshd"
	"github.com/cowl-disk/cowl/protocol/ssh"
)

// TestConformance runs the suite against a server in this process.
func TestConformance(t *testing.T) {
	s := newServer(t, nil)
	drivertest.Run(t, drivertest.Harness{Driver: ssh.New(), Light: true,
		NewName: func(t testing.TB) string { return s.url(filepath.Join(t.TempDir(), "x")) }})
}

// TestConformanceOpenSSH runs the suite against OpenSSH, which takes its time for each
// connection.
func TestConformanceOpenSSH(t *testing.T) {
	if !testkit.Long() {
		t.Skip("COWL_LONG is not set")
	}
	s := sshd.Start(t, "")
	t.Setenv("HOME", s.Home)
	t.Setenv("SSH_AUTH_SOCK", "")
	drivertest.Run(t, drivertest.Harness{Driver: ssh.New(), Light: true,
		NewName: func(t testing.TB) string { return s.URL(filepath.Join(t.TempDir(), "x")) }})
}
