package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WithHosts runs the test that calls it once more, in a network of its own that has the
// loopback's addresses and one more of each family, with hosts as /etc/hosts and without a name server. It reports
// true to that run, whose result is then the test's, and skips the test where the system
// has no such name spaces.
func WithHosts(t *testing.T, hosts string) bool {
	t.Helper()
	const child = "COWL_TEST_HOSTS"
	if os.Getenv(child) != "" {
		loopbackUp(t)
		return true
	}
	Root(t)
	Tool(t, "unshare")
	file := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(file, []byte(hosts), 0o644); err != nil {
		t.Fatal(err)
	}
	const noMounts = 77
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--net", "--propagation", "private", "sh", "-c",
		`# Without a file of hosts there is nothing to put another one on: a copy of the folder has one.
		[ -e /etc/hosts ] || { cp -a /etc "$3" && mount --bind "$3/etc" /etc && : >/etc/hosts || exit 77; }
		bind() { [ ! -e "$2" ] || mount --bind "$1" "$2" || exit 77; }; bind "$1" /etc/hosts; bind /dev/null /etc/resolv.conf
		exec "$0" -test.run "^$2\$" -test.v`, os.Args[0], file, t.Name(), t.TempDir())
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == noMounts {
		t.Skipf("no mounts in a name space here: %s", out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("%s", out)
	}
	return false
}

// loopbackUp enables the loopback device of a new network, and gives it addresses beside
// the loopback's: getaddrinfo(3) takes a family for absent if it has no other.
func loopbackUp(t *testing.T) {
	t.Helper()
	ioctl := func(family int, number uint, arg unsafe.Pointer) {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Skipf("no sockets of family %d: %v", family, err)
		}
		defer unix.Close(fd)
		if _, _, no := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(number), uintptr(arg)); no != 0 {
			t.Skipf("the loopback device cannot have an address of family %d: %v", family, no)
		}
	}
	request := func(name string) *unix.Ifreq {
		req, err := unix.NewIfreq(name)
		if err != nil {
			t.Fatal(err)
		}
		return req
	}
	up := request("lo")
	up.SetUint16(unix.IFF_UP)
	ioctl(unix.AF_INET, unix.SIOCSIFFLAGS, unsafe.Pointer(up))
	four := request("lo:1")
	if err := four.SetInet4Addr([]byte{10, 99, 0, 1}); err != nil {
		t.Fatal(err)
	}
	ioctl(unix.AF_INET, unix.SIOCSIFADDR, unsafe.Pointer(four))
	six := struct {
		addr   [16]byte
		prefix uint32
		index  int32
	}{[16]byte{0: 0xfd, 15: 1}, 128, 1}
	ioctl(unix.AF_INET6, unix.SIOCSIFADDR, unsafe.Pointer(&six))
}
