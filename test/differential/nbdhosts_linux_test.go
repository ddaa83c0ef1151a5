package differential

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// nbdHostOptions are options that name a host where no server is.
const nbdHostOptions = `
server.host=localhost,server.port=1
server.host=LOCALHOST,server.port=1
server.host=localhost,server.port=1,server.ipv4=on
server.host=localhost,server.port=1,server.ipv6=on
server.host=localhost,server.port=1,server.ipv4=off
server.host=localhost,server.port=1,server.ipv6=off
server.host=::1,server.port=1
server.host=::1,server.port=1,server.ipv4=on
server.host=127.0.0.1,server.port=1,server.ipv4=on
server.host=localhost,server.port=nosuchservice
server.host=nosuch.invalid,server.port=1
`

// bothLoopbacks is a file of hosts as most systems have it.
const bothLoopbacks = "127.0.0.1 localhost\n::1 localhost\n"

// TestNBDHosts compares what both programs say of hosts that cannot be reached, and where
// their servers listen.
func TestNBDHosts(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	tools := needCLI(t)
	if !testkit.WithHosts(t, bothLoopbacks) {
		return
	}
	dir := t.TempDir()
	testkit.Run(t, "truncate", "-s", "1M", filepath.Join(dir, "raw.img"))
	for line := range strings.Lines(strings.TrimSpace(nbdHostOptions)) {
		args := []string{"info", "--image-opts", "driver=nbd,server.type=inet," + strings.TrimSpace(line)}
		a, b := runNBD(t, dir, tools.img, args...), runNBD(t, dir, tools.ours, args...)
		if a != b || a.code != 1 {
			t.Errorf("%s\noriginal: %+v\nours:     %+v", line, a, b)
		}
	}
	for _, host := range []string{"localhost", "LOCALHOST", "127.0.0.1", "::1", "::", ""} {
		a, b := nbdListens(t, dir, theirs, host), nbdListens(t, dir, ours, host)
		if a != b || a == "" {
			t.Errorf("-b '%s': QEMU listens at [%s], ours at [%s]", host, a, b)
		}
	}
	taken, err := net.Listen("tcp4", "127.0.0.1:10809")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "203.0.113.7", "nosuch.invalid"} {
		args := []string{"-f", "raw", "-b", host, "raw.img"}
		a, b := runNBD(t, dir, theirs, args...), runNBD(t, dir, ours, args...)
		if a != b || a.code != 1 {
			t.Errorf("%v\noriginal: %+v\nours:     %+v", args, a, b)
		}
	}
	// One address of two is enough: the other is that of taken.
	if a, b := nbdListens(t, dir, theirs, "localhost"), nbdListens(t, dir, ours, "localhost"); a != b || !strings.Contains(a, "::1") {
		t.Errorf("beside a server at 127.0.0.1 QEMU listens at [%s], ours at [%s]", a, b)
	}
}

// nbdListens starts a server and returns at which of the loopback's addresses it is.
func nbdListens(t *testing.T, dir, program, host string) string {
	t.Helper()
	pidFile := filepath.Join(t.TempDir(), "pid")
	args := []string{"--fork", "-t", "--pid-file=" + pidFile, "-f", "raw", "raw.img"}
	if host != "" {
		args = append(args, "-b", host)
	}
	if o := runNBD(t, dir, program, args...); o.code != 0 {
		t.Errorf("%s %v: %+v", program, args, o)
		return ""
	}
	defer endServer(t, program, readPID(t, pidFile))
	var at []string
	for _, address := range []string{"127.0.0.1:10809", "[::1]:10809"} {
		if hangUp(address) == nil {
			at = append(at, address)
		}
	}
	return strings.Join(at, " ")
}

// hangUp connects to a server and leaves.
func hangUp(address string) error {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	return nc.Close()
}
