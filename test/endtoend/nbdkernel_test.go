package endtoend

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/test/endtoend/treehash"
)

// kernelModule returns the file of a module of the kernel, unpacked.
func kernelModule(t *testing.T, dir, version, name string) string {
	t.Helper()
	module := filepath.Join("/lib/modules", version, "kernel", name+".ko")
	if _, err := os.Stat(module + ".xz"); err == nil {
		plain := filepath.Join(dir, filepath.Base(module))
		if err := os.WriteFile(plain, []byte(testkit.Run(t, "xz", "-dc", module+".xz")), 0o644); err != nil {
			t.Fatal(err)
		}
		return plain
	}
	if _, err := os.Stat(module); err != nil {
		t.Skip("the cloud kernel lacks a module: " + err.Error())
	}
	return module
}

// TestKernelDevice attaches an image to a kernel's nbd device in a guest, by netlink
// and by ioctls, and looks at what the guest did to it. There other clients share a
// server with the kernel, and nbd-client attaches devices to our server. The guest's kernel also serves
// for sockets between virtual machines.
func TestKernelDevice(t *testing.T) {
	emulator := testkit.Tool(t, "qemu-system-x86_64")
	fsck := testkit.Tool(t, "e2fsck")
	kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-*")
	if len(kernels) == 0 {
		t.Skip("no cloud kernel in /boot: install linux-image-cloud-amd64")
	}
	version := strings.TrimPrefix(kernels[0], "/boot/vmlinuz-")
	dir := t.TempDir()
	tree := filepath.Join(goroot(t), "src", "net", "http")
	files, digest, err := treehash.Sum(tree)
	if err != nil {
		t.Fatal(err)
	}
	const start = 1 << 20
	ext4 := makeExt4(t, dir, tree, "31M")
	content, err := os.ReadFile(ext4)
	if err != nil {
		t.Fatal(err)
	}
	// One primary partition, from 1 MiB on.
	disk := make([]byte, start+len(content))
	copy(disk[start:], content)
	entry := disk[446:]
	entry[4] = 0x83
	binary.LittleEndian.PutUint32(entry[8:], start/512)
	binary.LittleEndian.PutUint32(entry[12:], uint32(len(content)/512))
	disk[510], disk[511] = 0x55, 0xaa
	raw, img := filepath.Join(dir, "parted.raw"), filepath.Join(dir, "disk.qcow2")
	if err := os.WriteFile(raw, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	cowl(t, "convert", "-f", "raw", "-O", "qcow2", raw, img)
	guestFiles := map[string]string{
		"nbd.ko":            kernelModule(t, dir, version, "drivers/block/nbd"),
		"vsock.ko":          kernelModule(t, dir, version, "net/vmw_vsock/vsock"),
		"vsock_common.ko":   kernelModule(t, dir, version, "net/vmw_vsock/vmw_vsock_virtio_transport_common"),
		"vsock_loopback.ko": kernelModule(t, dir, version, "net/vmw_vsock/vsock_loopback"),
		"qemu-nbd":          program, "qemu-img": program, "disk.qcow2": img}
	client := withLibraries(t, guestFiles, "nbd-client", "nbd-client")
	original := withLibraries(t, guestFiles, "original-qemu-nbd", "qemu-nbd")
	initrd := makeInitrd(t, dir, "./nbdguest", guestFiles)
	// The guest keeps its image in memory, and gives it back on a disk of its own.
	back := filepath.Join(dir, "back.raw")
	if err := os.WriteFile(back, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(back, 64<<20); err != nil {
		t.Fatal(err)
	}
	out := boot(t, emulator, kernels[0], initrd, "-drive", "if=none,id=d,format=raw,file="+back, "-device", "nvme,serial=cowl,drive=d")
	for _, want := range []string{fmt.Sprintf("guest-files: %d %s", files, digest), fmt.Sprintf("guest-size: %d", len(disk)),
		"guest-attached: netlink", "guest-attached: ioctl", "guest-attached: auto", "guest-vsock: ok", "guest-second-client: ours", "guest-done"} {
		if !strings.Contains(out, want) {
			t.Fatalf("the guest did not print %q:\n%s", want, out)
		}
	}
	result := filepath.Join(dir, "result.raw")
	cowl(t, "convert", "-f", "qcow2", "-O", "raw", back, result)
	got, err := os.ReadFile(result)
	if err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(dir, "part.raw")
	if err := os.WriteFile(part, got[start:], 0o644); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, fsck, "-fn", part)
	for _, c := range []struct {
		name, missing string
		there         bool
		want          []string
	}{
		{"nbd-client", "nbd-client is not installed", client, []string{"guest-nbd-client: unix", "guest-nbd-client: tcp"}},
		{"second client of QEMU", "qemu-nbd is not installed", original, []string{"guest-second-client: original"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !c.there {
				t.Skip(c.missing)
			}
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("the guest did not print %q:\n%s", want, out)
				}
			}
		})
	}
}

// withLibraries adds a program of this machine to the files of a guest, under a name,
// with its libraries and what loads them. It returns false if there is none, or it has
// no libraries as guests want them.
func withLibraries(t *testing.T, files map[string]string, name, program string) bool {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		// Where programs for administrators are, which may not be looked at.
		if path, err = exec.LookPath("/usr/sbin/" + program); err != nil {
			return false
		}
	}
	out, err := exec.Command("ldd", path).Output()
	if err != nil || !strings.Contains(string(out), "/ld-linux-x86-64.so.2") {
		return false
	}
	for _, word := range strings.Fields(string(out)) {
		if filepath.IsAbs(word) {
			files[filepath.Base(word)] = word
		}
	}
	files[name] = path
	return true
}
