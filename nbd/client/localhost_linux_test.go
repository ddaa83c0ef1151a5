package client_test

import (
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
)

// TestLocalhost connects to localhost, and listens there, on a system without a file of
// hosts and without a name server.
func TestLocalhost(t *testing.T) {
	const child = "COWL_TEST_LOCALHOST"
	if os.Getenv(child) == "" {
		if os.Getuid() != 0 {
			t.Skip("needs root, for a mount namespace")
		}
		if _, err := exec.LookPath("unshare"); err != nil {
			t.Skip("unshare is not installed")
		}
		cmd := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c",
			`for f in /etc/hosts /etc/resolv.conf; do [ ! -e $f ] || mount --bind /dev/null $f || exit 77; done; exec "$0" -test.run '^TestLocalhost$' -test.v`, os.Args[0])
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.CombinedOutput()
		if e, ok := err.(*exec.ExitError); ok && e.ExitCode() == 77 {
			t.Skipf("no mounts here: %s", out)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	l, err := server.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() {
		nc, err := l.Accept()
		if err == nil {
			nc.Close()
		}
		accepted <- err
	}()
	// The other side hangs up: what counts is that it was reached.
	if _, err := client.Dial(t.Context(), client.Config{Network: "tcp", Address: net.JoinHostPort("localhost", port)}); err == nil {
		t.Error("a server that hangs up was taken for one")
	} else if _, ok := err.(*client.ConnectError); ok {
		t.Errorf("%v", err)
	}
	if err := <-accepted; err != nil {
		t.Error(err)
	}
}
