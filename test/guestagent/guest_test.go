//go:build linux

package guestagent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// guestModules are what the guest needs beside what is built in; they need others.
var guestModules = []string{"virtio_pci", "virtio_console", "virtio_blk", "virtio_scsi", "sd_mod", "nvme", "dm-mod", "dm-crypt", "ecb", "aesni-intel", "xts", "raid1", "loop", "overlay", "ext4", "vsock_loopback", "rtc-cmos"}

// moduleFiles returns the modules and what they need, in the order of loading.
func moduleFiles(t *testing.T, release string) []string {
	t.Helper()
	dir := filepath.Join("/usr/lib/modules", release)
	data, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		t.Skipf("the modules of kernel %s are not there: %v", release, err)
	}
	var list []string
	for _, name := range guestModules {
		for line := range strings.Lines(string(data)) {
			file, deps, _ := strings.Cut(strings.TrimSpace(line), ":")
			if base, _, _ := strings.Cut(filepath.Base(file), ".ko"); strings.ReplaceAll(base, "_", "-") != strings.ReplaceAll(name, "_", "-") {
				continue
			}
			needs := strings.Fields(deps)
			slices.Reverse(needs)
			for _, f := range append(needs, file) {
				if f = filepath.Join(dir, f); !slices.Contains(list, f) {
					list = append(list, f)
				}
			}
		}
	}
	return list
}

var library = regexp.MustCompile(`(/\S+) \(0x`)

// guest is a running guest with both agents.
type guest struct {
	*testing.T
	dir          string
	console      string
	cmd          *exec.Cmd
	ended        chan struct{}
	theirs, ours *agent
}

// bootGuest starts a guest with disks of all kinds.
func bootGuest(t *testing.T) *guest {
	t.Helper()
	emulator, original := testkit.Tool(t, "qemu-system-x86_64"), theirs(t)
	kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-*")
	if len(kernels) == 0 {
		t.Skip("no cloud kernel in /boot: install linux-image-cloud-amd64")
	}
	release := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	g := &guest{T: t, dir: t.TempDir(), ended: make(chan struct{})}
	g.console = filepath.Join(g.dir, "console")
	files := map[string]string{"init": "testdata/init", "ours": ours, "theirs": original, "bin/busybox": testkit.Tool(t, "busybox"), "bin/sh": testkit.Tool(t, "busybox")}
	for _, name := range []string{"dmsetup", "mdadm", "mkfs.ext4"} {
		files["sbin/"+name] = testkit.Tool(t, name)
	}
	for _, f := range []string{original, files["sbin/dmsetup"], files["sbin/mdadm"]} {
		for _, m := range library.FindAllStringSubmatch(testkit.Run(t, testkit.Tool(t, "ldd"), f), -1) {
			files[strings.TrimPrefix(m[1], "/")] = m[1]
		}
	}
	files["vsockclient"] = filepath.Join(g.dir, "vsockclient")
	build := exec.Command("go", "build", "-o", files["vsockclient"], "./vsockclient")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var modules strings.Builder
	for i, f := range moduleFiles(t, release) {
		name := fmt.Sprintf("%02d-%s", i, filepath.Base(f))
		files["modules.d/"+name] = f
		fmt.Fprintln(&modules, name)
	}
	list := filepath.Join(g.dir, "modules")
	must(t, os.WriteFile(list, []byte(modules.String()), 0o644))
	files["modules"] = list
	passwd := filepath.Join(g.dir, "passwd")
	must(t, os.WriteFile(passwd, []byte("root:x:0:0:root:/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n"), 0o644))
	shadow := filepath.Join(g.dir, "shadow")
	must(t, os.WriteFile(shadow, []byte("root:*:1::::::\nu:!:1:0:99999:7:::\n"), 0o600))
	files["etc/passwd"], files["etc/shadow"] = passwd, shadow
	initrd := filepath.Join(g.dir, "initrd")
	packInitrd(t, initrd, files)

	disk := func(name string, megabytes int) string {
		p := filepath.Join(g.dir, name)
		must(t, os.WriteFile(p, nil, 0o644))
		must(t, os.Truncate(p, int64(megabytes)<<20))
		return p
	}
	mkfs := func(p string, args ...string) string {
		testkit.Run(t, testkit.Tool(t, "mkfs.ext4"), append(append([]string{"-q", "-F"}, args...), p)...)
		return p
	}
	a, b := disk("a", 64), disk("b", 64)
	must(t, partition(a, [][2]uint32{{2048, 65536}, {67584, 61440}}))
	testkit.Run(t, testkit.Tool(t, "mkfs.ext4"), "-q", "-F", "-b", "1024", "-E", "offset=1048576", a, "32768")
	testkit.Run(t, "mkfs.ext4", "-q", "-F", "-b", "1024", "-E", "offset=34603008", a, "30720")
	testkit.Run(t, "mkfs.ext4", "-q", "-F", "-b", "1024", b, "16384")
	raid := mkfs(disk("r1", 16))
	must(t, copyFile(raid, filepath.Join(g.dir, "r2")))
	args := []string{"-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35",
		"-serial", "file:" + g.console, "-kernel", kernels[0], "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1", "-device", "virtio-serial",
		"-device", "virtio-scsi,id=s0"}
	for _, name := range []string{"theirs", "ours"} {
		args = append(args, "-chardev", "socket,id="+name+",path="+filepath.Join(g.dir, name+".sock")+",server=on,wait=off",
			"-device", "virtserialport,chardev="+name+",name="+name)
	}
	for _, d := range [][3]string{{"a", a, "virtio-blk-pci,serial=DISKA"}, {"b", b, "virtio-blk-pci,serial=DISKB"}, {"s", mkfs(disk("s", 16)), "scsi-hd,bus=s0.0,scsi-id=2,lun=3,serial=SCSIS"},
		{"r1", raid, "scsi-hd,bus=s0.0,scsi-id=3"}, {"r2", filepath.Join(g.dir, "r2"), "scsi-hd,bus=s0.0,scsi-id=4"}, {"n", mkfs(disk("n", 16)), "nvme,serial=NVMEN"}} {
		args = append(args, "-drive", "if=none,format=raw,discard=unmap,id="+d[0]+",file="+d[1], "-device", d[2]+",drive="+d[0])
	}
	g.cmd = exec.Command(emulator, args...)
	var errOut bytes.Buffer
	g.cmd.Stderr = &errOut
	must(t, g.cmd.Start())
	go func() { _ = g.cmd.Wait(); close(g.ended) }()
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		<-g.ended
		if t.Failed() {
			text, _ := os.ReadFile(g.console)
			t.Logf("%s\n%s", errOut.String(), text)
		}
	})
	g.waitConsole("guest-ready")
	g.theirs, g.ours = g.client("theirs"), g.client("ours")
	return g
}

// partition writes an MBR with Linux partitions: first sector and length of each.
func partition(disk string, parts [][2]uint32) error {
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	sector := make([]byte, 512)
	for i, p := range parts {
		e := sector[446+16*i:]
		e[4] = 0x83
		binary.LittleEndian.PutUint32(e[8:], p[0])
		binary.LittleEndian.PutUint32(e[12:], p[1])
	}
	sector[510], sector[511] = 0x55, 0xAA
	_, err = f.WriteAt(sector, 0)
	return errors.Join(err, f.Close())
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

// guestLimit is the time after which a guest is given up.
const guestLimit = 5 * time.Minute

func (g *guest) waitConsole(text string) {
	g.Helper()
	for end := time.Now().Add(guestLimit); ; {
		have, _ := os.ReadFile(g.console)
		if strings.Contains(string(have), text) {
			return
		}
		select {
		case <-g.ended:
			g.Fatalf("the guest ended before it printed %q", text)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(end) {
			g.Fatalf("the guest does not print %q", text)
		}
	}
}

// client connects to an agent of the guest.
func (g *guest) client(name string) *agent {
	c, err := net.Dial("unix", filepath.Join(g.dir, name+".sock"))
	must(g.T, err)
	g.Cleanup(func() { c.Close() })
	return &agent{t: g.T, conn: c, err: &bytes.Buffer{}, cmd: g.cmd}
}

// packInitrd packs files: what they are called in the guest, and where they are here.
func packInitrd(t *testing.T, name string, files map[string]string) {
	t.Helper()
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	w := cpio.NewWriter(f)
	dirs := map[string]bool{}
	add := func(h *cpio.Header, data []byte) {
		h.Size = int64(len(data))
		must(t, w.WriteHeader(h))
		_, err := w.Write(data)
		must(t, err)
	}
	var mkdir func(string)
	mkdir = func(d string) {
		if d == "." || dirs[d] {
			return
		}
		mkdir(filepath.Dir(d))
		dirs[d] = true
		add(&cpio.Header{Name: d, Mode: cpio.TypeDir | 0o755}, nil)
	}
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "mnt", "bin", "sbin", "var", "root", "home/u"} {
		mkdir(d)
	}
	for name, file := range files {
		data, err := os.ReadFile(file)
		must(t, err)
		st, err := os.Stat(file)
		must(t, err)
		mkdir(filepath.Dir(name))
		mode := cpio.FileMode(st.Mode().Perm())
		if name == "init" {
			mode = 0o755
		}
		add(&cpio.Header{Name: name, Mode: cpio.TypeReg | mode}, data)
	}
	must(t, w.Close())
}

// TestGuest boots a guest and has both agents do what a test may not do on the machine
// that it runs on.
func TestGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a guest")
	}
	g := bootGuest(t)
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
	for _, name := range []string{"guest-get-fsinfo", "guest-get-disks"} {
		t.Logf("%s", g.ours.ask(command(name, ""), 0))
		same(command(name, ""))
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

var outData = regexp.MustCompile(`"out-data": "([^"]*)"`)

// output runs a program by an agent and returns what it prints.
func (a *agent) output(argv ...string) string {
	a.t.Helper()
	var quoted []string
	for _, s := range argv[1:] {
		quoted = append(quoted, fmt.Sprintf("%q", s))
	}
	reply := a.run(fmt.Sprintf(`{"path":%q,"arg":[%s],"capture-output":"merged"}`, argv[0], strings.Join(quoted, ",")))
	m := outData.FindStringSubmatch(reply)
	if m == nil {
		return ""
	}
	return decode(a.t, m[1])
}
