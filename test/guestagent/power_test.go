//go:build linux

package guestagent

import (
	"encoding/json"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// monitor is QEMU's own control socket.
type monitor struct {
	t    *testing.T
	conn net.Conn
	in   *json.Decoder

	events []string // that came and were not waited for
}

func dialMonitor(t *testing.T, path string) *monitor {
	t.Helper()
	c, err := net.Dial("unix", path)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	must(t, c.SetDeadline(time.Now().Add(guestLimit)))
	m := &monitor{t: t, conn: c, in: json.NewDecoder(c)}
	m.do(`{"execute":"qmp_capabilities"}`)
	return m
}

// do runs a command. Events that come before its answer are kept.
func (m *monitor) do(command string) {
	m.t.Helper()
	_, err := m.conn.Write([]byte(command))
	must(m.t, err)
	for {
		message := m.read()
		if message["return"] != nil {
			return
		}
		if name, ok := message["event"].(string); ok {
			m.events = append(m.events, name)
		}
	}
}

// event waits for an event that was not waited for before.
func (m *monitor) event(name string) {
	m.t.Helper()
	if i := slices.Index(m.events, name); i >= 0 {
		m.events = slices.Delete(m.events, i, i+1)
		return
	}
	for m.read()["event"] != name {
	}
}

func (m *monitor) read() (message map[string]any) {
	m.t.Helper()
	must(m.t, m.in.Decode(&message))
	if message["error"] != nil {
		m.t.Fatalf("the emulator: %v", message)
	}
	return message
}

// TestPower has our agent put a guest to sleep, start it again and halt it, with the
// kernel's own means; end and start while file systems are frozen; speak on a serial
// port beside QEMU's; and wait for a port that appears later.
func TestPower(t *testing.T) {
	if !testkit.Emulated(t) {
		return
	}
	image := newBootImage(t)
	dir := t.TempDir()
	args := []string{"-qmp", "unix:" + filepath.Join(dir, "qmp") + ",server=on,wait=off",
		"-drive", "if=none,format=raw,id=a,file=" + mkfs(t, rawDisk(t, dir, "a", 16)), "-device", "virtio-blk-pci,drive=a,serial=DISKA",
		"-chardev", "socket,id=late,path=" + filepath.Join(dir, "late") + ",server=on,wait=off"}
	for _, name := range []string{"isa.theirs", "isa.ours"} {
		args = append(args, "-chardev", "socket,id="+name+",path="+filepath.Join(dir, name)+",server=on,wait=off", "-device", "isa-serial,chardev="+name)
	}
	g := image.start(t, "power", args...)
	qmp := dialMonitor(t, filepath.Join(dir, "qmp"))
	dial := func(name string) *agent {
		c, err := net.Dial("unix", filepath.Join(dir, name))
		must(t, err)
		t.Cleanup(func() { c.Close() })
		return &agent{t: t, conn: c, err: g.theirs.err}
	}

	// The serial port.
	their, our := dial("isa.theirs"), dial("isa.ours")
	for _, r := range []string{command("guest-ping", ""), command("guest-get-osinfo", ""), command("guest-info", ""), command("guest-get-fsinfo", ""), "{\"execute\":\"gue\r\nst\"}",
		command("guest-sync", `{"id":17}`), command("guest-nothing", "")} {
		if want, got := normal(their.ask(r, 0)), normal(our.ask(r, 0)); got != want {
			t.Errorf("on a serial port: %s:\n got %s\nwant %s", r, got, want)
		}
	}

	// A port that is not there yet: nothing wakes up until it is.
	switches := func() string {
		return g.theirs.output("sh", "-c", "cat /proc/$(cat /tmp/late.pid)/task/*/status | grep '^voluntary'; cat /tmp/late/log")
	}
	for end := time.Now().Add(guestLimit); !strings.Contains(switches(), "waiting for channel path..."); {
		if time.Now().After(end) {
			t.Fatalf("the agent does not wait for its port: %s", switches())
		}
	}
	// Threads that the start left idle come to rest.
	before := switches()
	for end := time.Now().Add(guestLimit); ; {
		g.theirs.output("sleep", "6")
		now := switches()
		if now == before {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("waiting for a port, the agent wakes up: %s\nthen %s", before, now)
		}
		before = now
	}
	qmp.do(`{"execute":"device_add","arguments":{"driver":"virtserialport","chardev":"late","name":"late","id":"late"}}`)
	g.theirs.output("sh", "-c", `while :; do for p in /sys/class/virtio-ports/*; do [ "$(cat $p/name)" = late ] && ln -s /dev/${p##*/} /dev/virtio-ports/late && exit; done; done`)
	late := dial("late")
	if got := late.ask(command("guest-sync", `{"id":21}`), 0); !strings.Contains(got, `{"return": 21}`) {
		t.Errorf("on a port that appeared later: %s", got)
	}
	// It goes away, and comes back.
	late.conn.Close()
	g.theirs.output("rm", "/dev/virtio-ports/late")
	qmp.do(`{"execute":"device_del","arguments":{"id":"late"}}`)
	qmp.event("DEVICE_DELETED")
	for end := time.Now().Add(guestLimit); strings.Count(switches(), "waiting for channel path...") < 2; {
		if time.Now().After(end) {
			t.Fatalf("the agent does not notice that its port has gone: %s", switches())
		}
	}

	// An agent that is killed while file systems are frozen: the next one begins frozen.
	frozen := func(request, want string) {
		t.Helper()
		if got := g.ours.ask(request, 0); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", request, got, want)
		}
	}
	frozen(command("guest-fsfreeze-freeze", ""), `{"return": 1}`)
	g.theirs.output("sh", "-c", "p=$(cat /tmp/ours.pid); kill -9 $p; while [ -d /proc/$p ]; do :; done; /ours -t /tmp/ours -p /dev/virtio-ports/ours >/dev/null 2>&1 & echo $! >/tmp/ours.pid")
	frozen(command("guest-fsfreeze-status", ""), `"frozen"`)
	frozen(command("guest-get-time", ""), "has been disabled: the command is not allowed")
	g.theirs.output("sh", "-c", "kill -TERM $(cat /tmp/ours.pid)")
	frozen(command("guest-fsfreeze-status", ""), `"frozen"`)
	frozen(command("guest-fsfreeze-thaw", ""), `{"return": 1}`)
	frozen(command("guest-fsfreeze-status", ""), `"thawed"`)
	if got := g.theirs.output("sh", "-c", "echo written >/mnt/a/file; cat /mnt/a/file; ls /tmp/ours"); got != "written\nqga.state\n" {
		t.Errorf("after thawing: %q", got)
	}

	// Sleep.
	send := func(request string) {
		t.Helper()
		_, err := g.ours.conn.Write([]byte(request))
		must(t, err)
	}
	send(command("guest-suspend-ram", ""))
	qmp.event("SUSPEND")
	qmp.do(`{"execute":"system_wakeup"}`)
	qmp.event("WAKEUP")
	frozen(command("guest-sync", `{"id":31}`), `{"return": 31}`)

	// Another start, and the end.
	send(command("guest-shutdown", `{"mode":"reboot"}`))
	qmp.event("RESET")
	g.waitConsole("guest-ready", 2)
	frozen(command("guest-sync", `{"id":32}`), `{"return": 32}`)
	send(command("guest-shutdown", `{"mode":"halt"}`))
	g.waitConsole("System halted", 1)
}
