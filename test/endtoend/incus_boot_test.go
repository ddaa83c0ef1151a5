package endtoend

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus"
	"github.com/cowl-disk/cowl/incus/definition"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// bootLimit ends a guest that hangs.
const bootLimit = 15 * time.Minute

// TestIncusBoot boots a disk that was made without root under OVMF with Secure Boot, by
// shim and the signed GRUB, to the init of its root file system. It takes minutes, and so
// runs with COWL_COUNT only. The packages shim-signed and grub-efi-amd64-signed are
// unpacked in $COWL_BOOT_FILES, by ./test.sh setup, or installed; ovmf is installed.
func TestIncusBoot(t *testing.T) {
	if testkit.Count(0) == 0 {
		t.Skip("boots a machine with COWL_COUNT only")
	}
	emulator := testkit.Tool(t, "qemu-system-x86_64")
	program := testkit.Tool(t, "busybox")
	base := bootFiles()
	kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	if len(kernels) == 0 {
		t.Skip("no kernel of Debian's package linux-image-cloud-amd64")
	}
	version := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	tree := fstree.New()
	when := time.Unix(1700000000, 0)
	for path, from := range map[string]string{"bin/busybox": program, "boot/vmlinuz-" + version: kernels[0], "boot/initrd.img-" + version: "/boot/initrd.img-" + version,
		"usr/lib/shim/shimx64.efi.signed":                   base + "/usr/lib/shim/shimx64.efi.signed",
		"usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": base + "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Skipf("boot files are missing: %v", err)
		}
		n, err := tree.PutFile(path, content, when)
		must(t, err)
		n.Mode = 0o755
	}
	needFirmware(t)
	for _, name := range []string{"sh", "mount", "cat", "dmesg", "grep", "poweroff"} {
		must(t, tree.Root.Lookup("bin").Set(name, &fstree.Node{Kind: fstree.Symlink, Mode: 0o777, Target: "busybox", ModTime: when}))
	}
	for path, text := range map[string]string{"etc/os-release": "ID=debian\n", "etc/hello": "hello",
		"sbin/init": "#!/bin/sh\nmount -t devtmpfs dev /dev\necho \"BOOT-OK $(cat /etc/hello) $(dmesg | grep -c 'secureboot: Secure boot enabled')\" >/dev/ttyS0\npoweroff -f\n"} {
		n, err := tree.PutFile(path, []byte(text), when)
		must(t, err)
		n.Mode = 0o755
	}
	d, err := definition.Parse([]byte("image: {distribution: debian, release: 12, architecture: x86_64}\nsource: {downloader: rootfs-http}\npackages: {manager: apt}\ntargets: {incus: {vm: {size: 700000000}}}\n"), definition.Options{Now: when})
	must(t, err)
	image := incus.New(d, tree, when)
	must(t, image.Finish())
	compression, err := incus.ParseCompression("zstd")
	must(t, err)
	dir := t.TempDir()
	_, err = image.Pack(t.Context(), incus.PackOptions{Dir: dir, VM: &incus.VMOptions{Boot: incus.BootShimGRUB}, Registry: block.NewRegistry(drivers.All()...), Compression: compression})
	must(t, err)
	if console, found := bootSecurely(t, emulator, filepath.Join(dir, "disk.qcow2"), "BOOT-OK hello 1"); !found {
		t.Errorf("%s", console[max(0, len(console)-5000):])
	}
}

// debianPackages are what a Debian needs to boot by itself under Secure Boot.
const debianPackages = "systemd-sysv,udev,linux-image-cloud-amd64,shim-signed,grub-efi-amd64-signed,initramfs-tools"

// TestIncusBootDebian packs a Debian that debootstrap made, as it made it, by a user who
// is not root, and boots it by its own shim, GRUB, kernel and initrd to the prompt for a
// login. The root file system may be there already, in $COWL_DEBIAN_ROOT.
func TestIncusBootDebian(t *testing.T) {
	if testkit.Count(0) == 0 {
		t.Skip("boots a machine with COWL_COUNT only")
	}
	testkit.Root(t)
	emulator := testkit.Tool(t, "qemu-system-x86_64")
	root := os.Getenv("COWL_DEBIAN_ROOT")
	needFirmware(t)
	dir := t.TempDir()
	if root == "" {
		root = filepath.Join(dir, "root")
		testkit.Run(t, testkit.Tool(t, "debootstrap"), "--variant=minbase", "--include="+debianPackages, "bookworm", root)
	}
	work := filepath.Join(dir, "work")
	must(t, os.Mkdir(work, 0o755))
	testkit.Run(t, "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", root, "-cf", filepath.Join(work, "root.tar"), ".")
	must(t, os.WriteFile(filepath.Join(work, "d.yaml"), []byte(`image: {distribution: debian, release: bookworm, architecture: x86_64}
source: {downloader: debootstrap}
packages: {manager: apt}
files: [{generator: fstab}, {generator: hostname, path: /etc/hostname}]
`), 0o644))
	for _, name := range []string{"cowl", "cowl-incus"} {
		must(t, testkit.Build(filepath.Join(work, name), "./cmd/"+name))
	}
	const nobody = "65534"
	testkit.Run(t, "chown", nobody, work)
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // the user passes through
	for d := work; d != "/"; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err != nil || info.Mode()&1 == 0 {
			t.Skipf("%s is closed to other users: %v", d, err)
		}
	}
	cmd := exec.Command(testkit.Tool(t, "setpriv"), "--reuid", nobody, "--regid", nobody, "--clear-groups", filepath.Join(work, "cowl"), "pack-incus", "--vm", "--compression", "zstd", "d.yaml", "root.tar", "out")
	cmd.Dir, cmd.Env = work, []string{"TMPDIR=" + work, "PATH=/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	console, found := bootSecurely(t, emulator, filepath.Join(work, "out", "disk.qcow2"), " login: ")
	if !found || !strings.Contains(console, "secureboot: Secure boot enabled") {
		t.Errorf("%s", console[max(0, len(console)-5000):])
	}
}

// The firmware of Debian's package ovmf, with the keys that shim is signed for.
const (
	firmwareCode = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd"
	firmwareVars = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
)

func needFirmware(t *testing.T) {
	t.Helper()
	for _, f := range []string{firmwareCode, firmwareVars} {
		if _, err := os.Stat(f); err != nil {
			t.Skipf("the firmware of Debian's package ovmf is not installed: %v", err)
		}
	}
}

// bootFiles is where shim and GRUB are, as if it were /.
func bootFiles() string {
	if base := os.Getenv("COWL_BOOT_FILES"); base != "" {
		return base
	}
	const fetched = "/var/cache/cowl-test/incus/boot"
	if _, err := os.Stat(fetched); err == nil {
		return fetched
	}
	return ""
}

// bootSecurely boots a disk under Secure Boot, as Incus does, until the serial console
// shows a text, or the machine ends. It returns what the console showed.
func bootSecurely(t *testing.T, emulator, disk, until string) (console string, found bool) {
	t.Helper()
	settings, err := os.ReadFile(firmwareVars)
	must(t, err)
	vars := filepath.Join(t.TempDir(), "vars.fd")
	must(t, os.WriteFile(vars, settings, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, emulator, "-machine", "q35,smm=on", "-accel", testkit.EmulatorThread, "-cpu", "max", "-m", "1024", "-smp", "2", "-display", "none", "-no-reboot", "-net", "none",
		"-global", "driver=cfi.pflash01,property=secure,value=on", "-drive", "if=pflash,format=raw,readonly=on,file="+firmwareCode, "-drive", "if=pflash,format=raw,file="+vars,
		"-drive", "if=none,id=d,format=qcow2,snapshot=on,file="+disk, "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d", "-serial", "stdio")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var shown []byte
	buf := make([]byte, 4096)
	for {
		n, err := out.Read(buf)
		shown = append(shown, buf[:n]...)
		if found = bytes.Contains(shown, []byte(until)); found || err != nil {
			break
		}
	}
	cancel()
	cmd.Wait() // ended by us, where the text came
	return string(shown) + errs.String(), found
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
