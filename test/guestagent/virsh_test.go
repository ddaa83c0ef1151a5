//go:build linux

package guestagent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// domainXML describes a guest to libvirt: name, kernel, initramfs, agent, emulator,
// console and two disks.
const domainXML = `<domain type='qemu'><name>%[1]s</name><memory unit='MiB'>512</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>%[2]s</kernel><initrd>%[3]s</initrd>
<cmdline>console=ttyS0 quiet panic=-1 %[8]s cowl.setup=virsh cowl.agent=%[1]s ipv6.autoconf=0</cmdline></os>
<cpu mode='maximum'/><features><acpi/></features><pm><suspend-to-mem enabled='yes'/><suspend-to-disk enabled='yes'/></pm>
<devices><emulator>%[4]s</emulator>
<serial type='file'><source path='%[5]s'/></serial>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<interface type='user'><mac address='52:54:00:11:22:33'/><model type='virtio'/></interface>
<controller type='scsi' model='virtio-scsi'/><controller type='usb' model='none'/>
<disk type='file'><driver name='qemu' type='raw' discard='unmap'/><source file='%[6]s'/><target dev='vda' bus='virtio'/><serial>DISKA</serial></disk>
<disk type='file'><driver name='qemu' type='raw' discard='unmap'/><source file='%[7]s'/><target dev='sda' bus='scsi'/><serial>DISKS</serial></disk>
<memballoon model='none'/></devices></domain>
`

// emulatorScript is the emulator with its accelerator as we want it, which libvirt has no
// words for.
const emulatorScript = `#!/bin/sh
for arg; do
	shift
	[ "$arg" != tcg ] || arg=%s
	set -- "$@" "$arg"
done
exec qemu-system-x86_64 "$@"
`

// virsh is libvirt's client with libvirt inside it, which keeps all it has below one
// folder. One process runs all commands.
type virsh struct {
	*testing.T
	stdin io.Writer
	marks int

	mu  sync.Mutex
	out bytes.Buffer
	new chan struct{} // holds a value when there is more in out
}

func startVirsh(t *testing.T, dir string) *virsh {
	t.Helper()
	must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o755))
	conf := "security_driver = \"none\"\ncgroup_controllers = []\nstdio_handler = \"file\"\n"
	if os.Geteuid() == 0 {
		conf += "user = \"root\"\ngroup = \"root\"\n"
	}
	must(t, os.WriteFile(filepath.Join(dir, "etc", "qemu.conf"), []byte(conf), 0o644))
	cmd := exec.Command(testkit.Tool(t, "virsh"), "-q", "-c", "qemu:///embed?root="+dir)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TERM=dumb", "COLUMNS=10000", "LIBVIRT_LOG_OUTPUTS=3:file:"+filepath.Join(dir, "messages"))
	v := &virsh{T: t, new: make(chan struct{}, 1)}
	cmd.Stdout, cmd.Stderr = v, v
	stdin, err := cmd.StdinPipe()
	must(t, err)
	v.stdin = stdin
	must(t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		stdin.Close()
		select {
		case <-ended:
		case <-time.After(limit):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "messages"))
			t.Logf("libvirt: %s", text[max(0, len(text)-4000):])
		}
	})
	return v
}

// Write takes what virsh prints.
func (v *virsh) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case v.new <- struct{}{}:
	default:
	}
	return v.out.Write(p)
}

// prompt is what virsh prints before each command, which it repeats.
const prompt = "virsh # "

// do runs a command and returns all that it prints.
func (v *virsh) do(line string) string {
	v.Helper()
	v.marks++
	begin, end := fmt.Sprintf("begin-%d.", v.marks), fmt.Sprintf("end-%d.", v.marks)
	_, err := io.WriteString(v.stdin, "echo "+begin+"\n"+line+"\necho "+end+"\n")
	must(v.T, err)
	for late := time.After(guestLimit); ; {
		select {
		case <-v.new:
		case <-late:
			v.mu.Lock()
			text := v.out.String()
			v.mu.Unlock()
			v.Fatalf("virsh does not end %s: %s", line, text)
		}
		v.mu.Lock()
		text := v.out.String()
		// A mark is there with its command, and again as what that prints.
		done := strings.Count(text, end) == 2
		if done {
			v.out.Reset()
		}
		v.mu.Unlock()
		if !done {
			continue
		}
		text = text[strings.LastIndex(text, begin)+len(begin):]
		text = text[:strings.Index(text, "echo "+end)]
		_, text, _ = strings.Cut(text, "\n") // the command
		return strings.TrimSpace(strings.TrimSuffix(text, prompt))
	}
}

// until repeats a command until what it prints contains a text.
func (v *virsh) until(line, want string) { v.untilOne(line, want) }

// untilOne repeats a command until what it prints contains one of the texts, and returns
// that one.
func (v *virsh) untilOne(line string, want ...string) string {
	v.Helper()
	for end := time.Now().Add(guestLimit); ; {
		got := v.do(line)
		for _, w := range want {
			if strings.Contains(got, w) {
				return w
			}
		}
		if time.Now().After(end) {
			v.Fatalf("%s: %s, want %s", line, got, want)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// utmp is the record of a login of root in 2023.
func utmp() []byte {
	record := make([]byte, 384)
	binary.LittleEndian.PutUint32(record, 7) // USER_PROCESS
	copy(record[8:], "ttyS0")
	copy(record[44:], "root")
	binary.LittleEndian.PutUint32(record[340:], 1_700_000_000)
	return record
}

// virshCommands are what libvirt does by the agent; D is the domain.
var virshCommands = []string{
	`qemu-agent-command D '{"execute":"guest-sync","arguments":{"id":4}}'`, `qemu-agent-command D --pretty '{"execute":"guest-get-osinfo"}'`,
	`qemu-agent-command D '{"execute":"guest-nothing"}'`, `qemu-agent-command D '{"execute":"guest-sync"}'`, `qemu-agent-command D --timeout 5 '{"execute":"guest-get-users"}'`,
	`domfsinfo D`, `guestinfo D`, `guestinfo D --user --hostname`, `guestinfo D --disk --filesystem`, `guestinfo D --os --timezone --interface`,
	`domhostname D --source agent`, `domifaddr D --source agent`, `domifaddr D --source agent --full --interface eth0`,
	`domtime D`, `domtime D --pretty`, `domtime D --time 1700000000`, `domtime D --sync`, `domtime D --now`, `domtime D --time -5`,
	`guestvcpus D`, `guestvcpus D --cpulist 1 --disable`, `guestvcpus D`, `guestvcpus D --cpulist 1 --enable`, `guestvcpus D --cpulist 0 --disable`,
	`guestvcpus D --cpulist 7 --enable`, `vcpucount D --guest`, `setvcpus D 1 --guest`, `vcpucount D --guest`, `setvcpus D 2 --guest`,
	`domfsfreeze D`, `domfsfreeze D`, `domfsinfo D`, `domtime D`, `domfsthaw D`, `domfsthaw D`, `domfsfreeze D --mountpoint /mnt/a`, `domfsthaw D --mountpoint /mnt/a`, `domfsthaw D`,
	`domfsfreeze D --mountpoint /nothing`, `domfstrim D`, `domfstrim D --minimum 65536`, `domfstrim D --mountpoint /mnt/a`,
	`set-user-password D u secret`, `set-user-password D u 'a:b c'`, `set-user-password D u '$6$salt$hash' --encrypted`, `set-user-password D u:v x`,
	`set-user-sshkeys D u KEYS`, `get-user-sshkeys D u`, `set-user-sshkeys D u MORE`, `get-user-sshkeys D u`, `set-user-sshkeys D u KEYS --remove`, `get-user-sshkeys D u`,
	`set-user-sshkeys D u KEYS --reset`, `get-user-sshkeys D u`, `set-user-sshkeys D u --reset`, `get-user-sshkeys D u`,
	`qemu-agent-command D '{"execute":"guest-file-open","arguments":{"path":"/tmp/passwords"}}'`,
	`qemu-agent-command D '{"execute":"guest-file-read","arguments":{"handle":1000}}'`,
	`dompmsuspend D hybrid`,
}

// virshVolatile are the differences between two runs in what virsh prints.
var virshVolatile = []struct {
	re *regexp.Regexp
	by string
}{
	{regexp.MustCompile(`Time: .*`), "Time: T"},
	{regexp.MustCompile(`used-bytes(\s*): \d+`), "used-bytes$1: N"},
}

// TestVirsh has libvirt ask both agents for everything that it can.
func TestVirsh(t *testing.T) {
	if !testkit.Emulated(t) {
		return
	}
	testkit.Tool(t, "virsh")
	testkit.Tool(t, "qemu-system-x86_64")
	image := newBootImage(t)
	// Sockets have short paths.
	dir, err := os.MkdirTemp("", "virsh")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	emulator := filepath.Join(dir, "emulator")
	must(t, os.WriteFile(emulator, fmt.Appendf(nil, emulatorScript, testkit.EmulatorThread), 0o755))
	v := startVirsh(t, dir)
	names := []string{"theirs", "ours"}
	for _, name := range names {
		a, s := rawDisk(t, dir, name+".a", 64), rawDisk(t, dir, name+".s", 16)
		must(t, partition(a, [][2]uint32{{2048, 65536}}))
		mkfs(t, a, "32768", "-E", "offset=1048576")
		mkfs(t, s)
		xml := filepath.Join(dir, name+".xml")
		must(t, os.WriteFile(xml, fmt.Appendf(nil, domainXML, name, image.kernel, image.initrd, emulator, filepath.Join(dir, name+".console"), a, s, testkit.EmulatorKernel), 0o644))
		for _, line := range []string{"define " + xml, "start " + name} {
			if got := v.do(line); strings.Contains(got, "error:") {
				t.Fatalf("libvirt: %s: %s", line, got)
			}
		}
		t.Cleanup(func() {
			v.do("destroy " + name)
			if t.Failed() {
				text, _ := os.ReadFile(filepath.Join(dir, name+".console"))
				t.Logf("%s: %s", name, text)
				logs, _ := filepath.Glob(filepath.Join(dir, "log", "qemu", name+".log"))
				for _, log := range logs {
					text, _ := os.ReadFile(log)
					t.Logf("the emulator of %s: %s", name, text[max(0, len(text)-2000):])
				}
			}
		})
	}
	keys, more := filepath.Join(dir, "keys"), filepath.Join(dir, "more")
	must(t, os.WriteFile(keys, []byte("ssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n"), 0o644))
	must(t, os.WriteFile(more, []byte("ssh-ed25519 CCCC three\nssh-ed25519 AAAA one\n"), 0o644))
	ready := func() {
		for _, name := range names {
			if v.untilOne("qemu-agent-command "+name+` '{"execute":"guest-ping"}'`, `{"return":{}}`, "domain is not running") != `{"return":{}}` {
				t.Fatalf("%s ended while it booted: %s", name, v.do("domstate --reason "+name))
			}
		}
	}
	ready()
	run := func(line, name string) string {
		text := v.do(strings.NewReplacer(" D", " "+name, "KEYS", keys, "MORE", more).Replace(line))
		text = strings.ReplaceAll(text, "'"+name+"'", "'D'")
		for _, e := range virshVolatile {
			text = e.re.ReplaceAllString(text, e.by)
		}
		// The keys are in the order of the file with ours. virsh prints them in one line.
		if strings.HasPrefix(line, "get-user-sshkeys") {
			keys := strings.Split(text, "ssh-")
			slices.Sort(keys)
			text = strings.Join(keys, "ssh-")
		}
		return text
	}
	compare := func(line string) {
		t.Helper()
		want, got := run(line, "theirs"), run(line, "ours")
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", line, got, want)
		}
	}
	for _, line := range virshCommands {
		compare(line)
	}
	// Real sleep, and waking up. That a guest sleeps is the agent's work; what its emulator
	// makes of it is not: now and then the process ends there, without a word in its log,
	// or its guest is reset. That guest starts anew. TestPower wakes them up without libvirt.
	compare("dompmsuspend D mem")
	for _, name := range names {
		switch state := v.untilOne("domstate "+name, "pmsuspended", "shut off"); state {
		case "pmsuspended":
			if got := run("dompmwakeup D", name); got != "" {
				t.Errorf("dompmwakeup %s: %s", name, got)
			}
		default:
			reason := v.do("domstate --reason " + name)
			t.Logf("the emulator of %s ended: %s", name, reason)
			if name == "ours" && strings.Contains(reason, "(shutdown)") {
				t.Error("the guest did not sleep, it shut down")
			}
			if got := v.do("start " + name); strings.Contains(got, "error:") {
				t.Fatalf("libvirt: start %s: %s", name, got)
			}
		}
	}
	ready()
	compare("reboot D --mode agent")
	// The kernel has the last word about the agent's work. What the emulator does then is its
	// own: sometimes it does not come back from a reset.
	for _, name := range names {
		for end := time.Now().Add(guestLimit); !printed(filepath.Join(dir, name+".console"), "reboot: Restarting system", 1); {
			if time.Now().After(end) {
				t.Fatalf("%s does not boot again", name)
			}
			<-time.After(100 * time.Millisecond)
		}
		v.do("destroy " + name)
		if got := v.do("start " + name); strings.Contains(got, "error:") {
			t.Fatalf("libvirt: start %s: %s", name, got)
		}
	}
	ready()
	// libvirt reports success if it hears of the end of the guest before its emulator
	// has ended, and else that the socket of the agent was closed. Which comes first
	// is chance with either agent.
	for _, name := range names {
		got := run("shutdown D --mode agent", name)
		if got != "" && !strings.Contains(got, "End of file from agent socket") {
			t.Errorf("shutdown of %s: %s", name, got)
		}
		v.until("domstate "+name, "shut off")
	}
}
