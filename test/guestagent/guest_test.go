//go:build linux

package guestagent

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// bootDisks starts a guest with disks of all kinds.
func bootDisks(t *testing.T) *guest {
	t.Helper()
	image := newBootImage(t)
	dir := t.TempDir()
	a, b := rawDisk(t, dir, "a", 64), rawDisk(t, dir, "b", 64)
	must(t, partition(a, [][2]uint32{{2048, 65536}, {67584, 61440}}))
	mkfs(t, a, "32768", "-E", "offset=1048576")
	mkfs(t, a, "30720", "-E", "offset=34603008")
	mkfs(t, b, "16384")
	raid := mkfs(t, rawDisk(t, dir, "r1", 16))
	must(t, copyFile(raid, filepath.Join(dir, "r2")))
	args := []string{"-no-reboot", "-device", "virtio-scsi,id=s0"}
	for _, d := range [][3]string{{"a", a, "virtio-blk-pci,serial=DISKA"}, {"b", b, "virtio-blk-pci,serial=DISKB"},
		{"s", mkfs(t, rawDisk(t, dir, "s", 16)), "scsi-hd,bus=s0.0,scsi-id=2,lun=3,serial=SCSIS"},
		{"r1", raid, "scsi-hd,bus=s0.0,scsi-id=3"}, {"r2", filepath.Join(dir, "r2"), "scsi-hd,bus=s0.0,scsi-id=4"},
		{"n", mkfs(t, rawDisk(t, dir, "n", 16)), "nvme,serial=NVMEN"},
		{"v1", rawDisk(t, dir, "v1", 16), "virtio-blk-pci,serial=DISKV1"}, {"v2", rawDisk(t, dir, "v2", 16), "virtio-blk-pci,serial=DISKV2"},
		{"l", rawDisk(t, dir, "l", 32), "virtio-blk-pci,serial=DISKL"}} {
		args = append(args, "-drive", "if=none,format=raw,discard=unmap,id="+d[0]+",file="+d[1], "-device", d[2]+",drive="+d[0])
	}
	return image.start(t, "disks", args...)
}

// TestGuest boots a guest and has both agents do what a test may not do on the machine
// that it runs on.
func TestGuest(t *testing.T) {
	if !testkit.Emulated(t) {
		return
	}
	g := bootDisks(t)
	same := func(request string, edit ...func(string) string) {
		t.Helper()
		want, got := normal(g.theirs.ask(request, 0)), normal(g.ours.ask(request, 0))
		for _, e := range edit {
			want, got = e(want), e(got)
		}
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", request, got, want)
		}
	}
	// Devices of all kinds.
	for name, devices := range map[string][]string{"guest-get-fsinfo": {"/mnt/lvm", "/mnt/crypt", "/mnt/raid", "/mnt/nvme"}, "guest-get-disks": {`"vg0-data"`, `"enc"`}} {
		same(command(name, ""))
		got := g.ours.ask(command(name, ""), 0)
		for _, d := range devices {
			if !strings.Contains(got, d) {
				t.Errorf("%s: the guest did not make %s: %s", name, d, got)
			}
		}
	}
	for _, name := range []string{"guest-get-vcpus", "guest-get-memory-blocks", "guest-get-memory-block-info", "guest-network-get-interfaces", "guest-network-get-route",
		"guest-get-diskstats", "guest-get-osinfo", "guest-get-users", "guest-get-host-name", "guest-get-timezone"} {
		same(command(name, ""))
	}
	if got := g.ours.ask(command("guest-get-disks", ""), 0); strings.Count(got, `"serial"`) < 4 {
		t.Errorf("without udev, serial numbers are missing: %s", got)
	}
	// Freezing: each agent alone, with the same counts.
	contains := func(a *agent, request, want string) {
		t.Helper()
		if got := a.ask(request, 0); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", request, got, want)
		}
	}
	freeze := func(a *agent, request string) string {
		t.Helper()
		n := a.ask(request, 0)
		contains(a, command("guest-fsfreeze-status", ""), `"frozen"`)
		contains(a, command("guest-exec", `{"path":"true"}`), "has been disabled: the command is not allowed")
		return n + a.ask(command("guest-fsfreeze-thaw", ""), 0) + a.ask(command("guest-fsfreeze-status", ""), 0)
	}
	for _, r := range []string{command("guest-fsfreeze-freeze", ""), command("guest-fsfreeze-freeze-list", `{"mountpoints":["/mnt/a","/mnt/bind","/mnt/nvme","/nothing"]}`)} {
		if want, got := freeze(g.theirs, r), freeze(g.ours, r); got != want {
			t.Errorf("%s: %s, theirs: %s", r, got, want)
		}
	}
	contains(g.ours, command("guest-fsfreeze-freeze-list", `{"mountpoints":["/nothing"]}`), `{"return": 0}`)
	contains(g.theirs, command("guest-fsfreeze-freeze-list", `{"mountpoints":["/nothing"]}`), `{"return": 0}`)
	// The hook was told to thaw as often as to freeze.
	if got := g.ours.output("sh", "-c", "grep -c freeze /tmp/ours/hook; grep -c thaw /tmp/ours/hook"); got != "3\n3\n" {
		t.Errorf("calls of the hook: %q", got)
	}
	same(command("guest-fstrim", `{"minimum":0}`), func(s string) string { return regexp.MustCompile(`"trimmed": \d+`).ReplaceAllString(s, `"trimmed": N`) })
	// Processors and memory.
	for _, online := range []string{"false", "true"} {
		for _, a := range []*agent{g.theirs, g.ours} {
			contains(a, command("guest-set-vcpus", `{"vcpus":[{"logical-id":1,"online":`+online+`}]}`), `{"return": 1}`)
		}
		same(command("guest-get-vcpus", ""))
	}
	same(command("guest-set-vcpus", `{"vcpus":[{"logical-id":0,"online":false}]}`))
	same(command("guest-set-memory-blocks", `{"mem-blks":[{"phys-index":0,"online":true},{"phys-index":777,"online":false}]}`))
	// The clock, without a program for the hardware clock.
	contains(g.ours, command("guest-set-time", `{"time":1600000000000000000}`), `{"return": {}}`)
	if got := g.ours.ask(command("guest-get-time", ""), 0); !strings.HasPrefix(got, `{"return": 16000000`) {
		t.Errorf("the time is %s", got)
	}
	same(command("guest-set-time", `{"time":-1}`))
	same(command("guest-set-time", `{"time":4000000000000000000}`))
	// Keys: in the order of the file, and never through a link.
	contains(g.ours, command("guest-ssh-add-authorized-keys", `{"username":"u","keys":["ssh-a AA one","ssh-b BB two",""]}`), `{"return": {}}`)
	contains(g.ours, command("guest-ssh-get-authorized-keys", `{"username":"u"}`), `{"return": {"keys": ["ssh-a AA one", "ssh-b BB two"]}}`)
	contains(g.ours, command("guest-ssh-remove-authorized-keys", `{"username":"u","keys":["ssh-a AA one"]}`), `{"return": {}}`)
	if got := g.ours.output("sh", "-c", "cat /home/u/.ssh/authorized_keys; stat -c '%a %u' /home/u/.ssh /home/u/.ssh/authorized_keys"); got != "ssh-b BB two\n700 1000\n600 1000\n" {
		t.Errorf("keys: %q", got)
	}
	g.ours.output("sh", "-c", "rm -r /home/u/.ssh; mkdir /tmp/elsewhere; ln -s /tmp/elsewhere /home/u/.ssh")
	contains(g.ours, command("guest-ssh-add-authorized-keys", `{"username":"u","keys":["k"]}`), `"error"`)
	if got := g.ours.output("ls", "/tmp/elsewhere"); got != "" {
		t.Errorf("a link was followed: %s", got)
	}
	// A password reaches its program after one that had one stream captured.
	g.ours.output("sh", "-c", "printf '#!/bin/sh\\ncat >/tmp/password\\n' >/sbin/chpasswd; chmod +x /sbin/chpasswd; rm -f /bin/chpasswd")
	for _, mode := range []string{"stdout", "stderr"} {
		g.ours.run(`{"path":"true","capture-output":"` + mode + `"}`)
		g.ours.output("rm", "-f", "/tmp/password")
		contains(g.ours, command("guest-set-user-password", `{"username":"u","password":"c2VjcmV0","crypted":false}`), `{"return": {}}`)
		if got := g.ours.output("cat", "/tmp/password"); got != "u:secret\n" {
			t.Errorf("after capturing %s, the password program gets %q", mode, got)
		}
	}
	// Passwords, by the shadow file where there is no program.
	g.ours.output("rm", "-f", "/bin/chpasswd", "/sbin/chpasswd")
	contains(g.ours, command("guest-set-user-password", `{"username":"u","password":"c2VjcmV0","crypted":false}`), `{"return": {}}`)
	if got := g.ours.output("grep", "^u:", "/etc/shadow"); !strings.HasPrefix(got, "u:$6$") {
		t.Errorf("shadow: %s", got)
	}
	contains(g.ours, command("guest-suspend-hybrid", ""), "the requested suspend mode is not supported by the guest")
	// A host that died in the middle of a message.
	reads := func() string {
		return g.theirs.output("sh", "-c", "grep syscr /proc/$(cat /tmp/ours.pid)/io")
	}
	_, err := g.ours.conn.Write([]byte(`{"execute":"guest-pi`))
	must(t, err)
	g.theirs.ask(command("guest-ping", ""), 0)
	before := reads()
	g.ours.conn.Close()
	// The port does not tell that a host has gone once the next one is there: the
	// agent has to see it, which is when it reads again.
	for end := time.Now().Add(guestLimit); reads() == before; {
		if time.Now().After(end) {
			t.Fatal("the agent does not notice that its host has gone")
		}
	}
	g.ours = g.client("ours")
	contains(g.ours, command("guest-sync", `{"id":9}`), `{"return": 9}`)
	// Without a host, the agent does not wake up.
	before = reads()
	g.ours.conn.Close()
	for end := time.Now().Add(guestLimit); reads() == before; {
		if time.Now().After(end) {
			t.Fatal("the agent does not notice that its host has gone")
		}
	}
	quiet := reads()
	g.theirs.output("sleep", "3")
	if got := reads(); got != quiet {
		t.Errorf("the agent reads without a host: %s, then %s", quiet, got)
	}
	g.ours = g.client("ours")
	// vsock.
	for request, want := range map[string]string{command("guest-sync", `{"id":5}`): `{"return": 5}`, command("guest-exec", `{"path":"true"}`): "has been disabled"} {
		if got := g.theirs.output("/vsockclient", "1:5000", request); !strings.Contains(got, want) {
			t.Errorf("vsock: %s: %s", request, got)
		}
	}
	// Power off, by the first program that is there.
	g.ours.output("sh", "-c", "printf '#!/bin/sh\necho guest-poweroff >/dev/console\n/bin/busybox poweroff -f\n' >/sbin/poweroff; chmod +x /sbin/poweroff")
	_, err = g.ours.conn.Write([]byte(command("guest-shutdown", `{"mode":"powerdown"}`)))
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), guestLimit)
	defer cancel()
	select {
	case <-g.ended:
	case <-ctx.Done():
		t.Error("the guest does not power off")
	}
	if text, _ := os.ReadFile(g.console); !strings.Contains(string(text), "guest-poweroff") {
		t.Error("the guest ended in another way")
	}
}
