//go:build wine

package windows

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAgent talks to the guest agent by a serial port, which is a terminal here.
func TestAgent(t *testing.T) {
	m := newMachine(t)
	host, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	number, err := unix.IoctlGetInt(int(host.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(host.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join("/dev/pts", strconv.Itoa(number))
	guest, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	state, err := unix.IoctlGetTermios(int(guest.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	state.Iflag, state.Oflag, state.Lflag = 0, 0, 0
	if err := unix.IoctlSetTermios(int(guest.Fd()), unix.TCSETS, state); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(m.root, "root/.wine/dosdevices/com7")
	_ = os.Remove(link)
	if err := os.Symlink(name, link); err != nil {
		t.Fatal(err)
	}
	m.start("wine", "/root/cowl-agent.exe", "-m", "isa-serial", "-p", "COM7", "-t", `C:\state\of\agent`)
	lines := make(chan string)
	go func() {
		for in := bufio.NewReader(host); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			lines <- strings.TrimSpace(line)
		}
	}()
	ask := func(request string) string {
		t.Helper()
		if _, err := host.WriteString(request + "\n"); err != nil {
			t.Fatal(err)
		}
		select {
		case line := <-lines:
			return line
		case <-time.After(limit):
			t.Fatalf("%s: no reply", request)
			return ""
		}
	}
	for _, c := range []struct{ request, want string }{
		{`{"execute": "guest-ping"}`, `{"return": {}}`},
		{`{"execute": "guest-sync", "arguments": {"id": 5}}`, `{"return": 5}`},
		{`{"execute": "guest-get-osinfo"}`, `"id": "mswindows"`},
		// Wine has no counter for it.
		{`{"execute": "guest-get-load"}`, `failed to read the length of the processor queue: PdhAddEnglishCounter: error 0x`},
		{`{"execute": "guest-get-devices"}`, `{"return": [`},
		{`{"execute": "guest-get-fsinfo"}`, `"mountpoint": "C:\\"`},
		{`{"execute": "guest-get-disks"}`, `"name": "\\\\.\\PhysicalDrive0"`},
		{`{"execute": "guest-fstrim"}`, `{"path": "C:\\"`},
		{`{"execute": "guest-get-host-name"}`, `"host-name": "`},
		{`{"execute": "guest-set-user-password", "arguments": {"username": "u", "password": "YQ==", "crypted": true}}`, `'crypted' must be off on this host`},
		{`{"execute": "guest-ssh-get-authorized-keys", "arguments": {"username": "nobody"}}`, `User nobody was not found`},
		{`{"execute": "guest-ssh-add-authorized-keys", "arguments": {"username": "root", "keys": ["ssh-ed25519 AAAA one", "ssh-rsa BBBB"], "reset": true}}`, `{"return": {}}`},
		{`{"execute": "guest-ssh-remove-authorized-keys", "arguments": {"username": "root", "keys": ["ssh-rsa BBBB"]}}`, `{"return": {}}`},
		{`{"execute": "guest-ssh-get-authorized-keys", "arguments": {"username": "root"}}`, `{"return": {"keys": ["ssh-ed25519 AAAA one"]}}`},
		{`{"execute": "guest-file-open", "arguments": {"path": "C:\\agent.txt", "mode": "w"}}`, `{"return": 100`},
		{`{"execute": "guest-exec", "arguments": {"path": "cmd.exe", "arg": ["/c", "echo hello"], "capture-output": true}}`, `"pid": `},
	} {
		if got := ask(c.request); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", c.request, got, c.want)
		}
	}
	// Many requests at once, while replies are written.
	const n = 200
	go func() { _, _ = host.WriteString(strings.Repeat(`{"execute": "guest-ping"}`, n)) }()
	for range n {
		select {
		case line := <-lines:
			if line != `{"return": {}}` {
				t.Fatal(line)
			}
		case <-time.After(limit):
			t.Fatal("no reply")
		}
	}
	if _, err := os.Stat(filepath.Join(m.root, "root/.wine/drive_c/state/of/agent/qga.state")); err != nil {
		t.Error(err)
	}
}
