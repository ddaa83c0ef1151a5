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
// runs with COWL_COUNT only. The packages ovmf, shim-signed and grub-efi-amd64-signed are
// installed, or unpacked in $COWL_BOOT_FILES.
func TestIncusBoot(t *testing.T) {
	if testkit.Count(0) == 0 {
		t.Skip("boots a machine with COWL_COUNT only")
	}
	emulator := testkit.Tool(t, "qemu-system-x86_64")
	program := testkit.Tool(t, "busybox")
	base := os.Getenv("COWL_BOOT_FILES")
	kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	if len(kernels) == 0 {
		t.Skip("no kernel of Debian's package linux-image-cloud-amd64")
	}
	version := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	code, vars := base+"/usr/share/OVMF/OVMF_CODE_4M.ms.fd", base+"/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
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
	for _, f := range []string{code, vars} {
		if _, err := os.Stat(f); err != nil {
			t.Skipf("boot files are missing: %v", err)
		}
	}
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
	settings, err := os.ReadFile(vars)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "vars.fd"), settings, 0o600))

	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, emulator, "-machine", "q35,smm=on", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "2", "-display", "none", "-no-reboot", "-net", "none",
		"-global", "driver=cfi.pflash01,property=secure,value=on", "-drive", "if=pflash,format=raw,readonly=on,file="+code, "-drive", "if=pflash,format=raw,file=vars.fd",
		"-drive", "if=none,id=d,format=qcow2,file=disk.qcow2", "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d", "-serial", "file:serial")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	console, _ := os.ReadFile(filepath.Join(dir, "serial"))
	if err != nil || !bytes.Contains(console, []byte("BOOT-OK hello 1")) {
		t.Errorf("%v %s\n%s", err, out, console[max(0, len(console)-3000):])
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
