package client_test

import (
	"net"
	"os"
	"os/exec"
	"strings"
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
	list, err := server.ListenAll("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(list[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	networks := []string{"tcp", "tcp4"}
	if l, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		l.Close()
		if networks = append(networks, "tcp6"); len(list) != 2 {
			t.Errorf("%d listeners, want one for IPv4 and one for IPv6", len(list))
		}
	}
	accepted := make(chan string, 3)
	for _, l := range list {
		go func() {
			for {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				accepted <- l.Addr().String()
				nc.Close()
			}
		}()
	}
	for _, network := range networks {
		// The other side hangs up: what counts is that it was reached.
		_, err := client.Dial(t.Context(), client.Config{Network: network, Address: net.JoinHostPort("localhost", port)})
		if err == nil {
			t.Error("a server that hangs up was taken for one")
		} else if _, ok := err.(*client.ConnectError); ok {
			t.Errorf("%s: %v", network, err)
			continue
		}
		want := list[0]
		if network == "tcp6" {
			want = list[len(list)-1]
		}
		if got := <-accepted; got != want.Addr().String() {
			t.Errorf("%s reached %s, want %s", network, got, want.Addr())
		}
	}
	for _, l := range list {
		l.Close()
	}
	// Where nobody listens it is the first address that the error names.
	if _, err := client.Dial(t.Context(), client.Config{Network: "tcp", Address: net.JoinHostPort("localhost", port)}); err == nil || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("nobody listens: %v", err)
	}
}
