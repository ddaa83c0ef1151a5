//go:build linux

package guestagent

import (
	"bytes"
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
var guestModules = []string{"virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "virtio_scsi", "sd_mod", "nvme", "dm-mod", "dm-crypt", "ecb", "aesni-intel", "xts", "raid1", "loop", "overlay", "ext4", "vsock_loopback", "rtc-cmos"}

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

// bootImage is what a guest boots: a kernel and an initramfs with both agents.
type bootImage struct{ kernel, initrd string }

// newBootImage makes the image. The first process is testdata/init, which goes on with
// the file testdata/setup.NAME that the kernel's command line names.
func newBootImage(t *testing.T) bootImage {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a guest")
	}
	dir := t.TempDir()
	original := theirs(t)
	kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-*")
	if len(kernels) == 0 {
		t.Skip("no cloud kernel in /boot: install linux-image-cloud-amd64")
	}
	release := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	files := map[string]string{"init": "testdata/init", "ours": ours, "theirs": original, "bin/busybox": testkit.Tool(t, "busybox"), "bin/sh": testkit.Tool(t, "busybox")}
	setups, err := filepath.Glob("testdata/setup.*")
	must(t, err)
	for _, f := range setups {
		files[filepath.Base(f)] = f
	}
	for _, name := range []string{"dmsetup", "mdadm", "lvm", "cryptsetup"} {
		files["sbin/"+name] = testkit.Tool(t, name)
	}
	for _, f := range []string{original, files["sbin/dmsetup"], files["sbin/mdadm"], files["sbin/lvm"], files["sbin/cryptsetup"]} {
		for _, m := range library.FindAllStringSubmatch(testkit.Run(t, testkit.Tool(t, "ldd"), f), -1) {
			files[strings.TrimPrefix(m[1], "/")] = m[1]
		}
	}
	files["vsockclient"] = filepath.Join(dir, "vsockclient")
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
	for name, text := range map[string]string{
		"utmp":       string(utmp()),
		"modules":    modules.String(),
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n",
		"etc/shadow": "root:*:1::::::\nu:!:1:0:99999:7:::\n",
	} {
		files[name] = filepath.Join(dir, filepath.Base(name))
		must(t, os.WriteFile(files[name], []byte(text), 0o600))
		must(t, os.Chmod(files[name], 0o644))
	}
	image := bootImage{kernels[0], filepath.Join(dir, "initrd")}
	packInitrd(t, image.initrd, files)
	return image
}

// rawDisk makes an empty disk.
func rawDisk(t *testing.T, dir, name string, megabytes int64) string {
	t.Helper()
	p := filepath.Join(dir, name)
	must(t, os.WriteFile(p, nil, 0o644))
	must(t, os.Truncate(p, megabytes<<20))
	return p
}

// mkfs makes a file system of a disk: more arguments are the number of blocks, in KiB,
// and options.
func mkfs(t *testing.T, disk string, more ...string) string {
	t.Helper()
	testkit.Run(t, testkit.Tool(t, "mkfs.ext4"), append([]string{"-q", "-F", "-b", "1024", disk}, more...)...)
	return disk
}

// guest is a running guest.
type guest struct {
	*testing.T
	dir          string
	console      string
	cmd          *exec.Cmd
	ended        chan struct{}
	theirs, ours *agent
}

// start boots the image with the setup of a name and more arguments of the emulator.
func (image bootImage) start(t *testing.T, setup string, args ...string) *guest {
	t.Helper()
	g := &guest{T: t, dir: t.TempDir(), ended: make(chan struct{})}
	g.console = filepath.Join(g.dir, "console")
	all := []string{"-accel", testkit.EmulatorThread, "-cpu", "max", "-smp", "2", "-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35",
		"-serial", "file:" + g.console, "-kernel", image.kernel, "-initrd", image.initrd, "-append", "console=ttyS0 quiet panic=-1 " + testkit.EmulatorKernel + " cowl.setup=" + setup,
		"-device", "virtio-serial"}
	for _, name := range []string{"theirs", "ours"} {
		all = append(all, "-chardev", "socket,id="+name+",path="+filepath.Join(g.dir, name+".sock")+",server=on,wait=off",
			"-device", "virtserialport,chardev="+name+",name="+name)
	}
	g.cmd = exec.Command(testkit.Tool(t, "qemu-system-x86_64"), append(all, args...)...)
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
	g.waitConsole("guest-ready", 1)
	g.theirs, g.ours = g.client("theirs"), g.client("ours")
	return g
}

// guestLimit is the time after which a guest is given up.
const guestLimit = 3 * time.Minute

// waitConsole waits until the guest has printed a text so many times.
func (g *guest) waitConsole(text string, times int) {
	g.Helper()
	for end := time.Now().Add(guestLimit); !printed(g.console, text, times); {
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

// printed reports whether a console has a text so many times.
func printed(console, text string, times int) bool {
	have, _ := os.ReadFile(console)
	return bytes.Count(have, []byte(text)) >= times
}

// client connects to an agent of the guest.
func (g *guest) client(name string) *agent {
	c, err := net.Dial("unix", filepath.Join(g.dir, name+".sock"))
	must(g.T, err)
	g.Cleanup(func() { c.Close() })
	return &agent{t: g.T, conn: c, err: &bytes.Buffer{}, cmd: g.cmd}
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
