// Command nbdguest is the first process of a test guest: it attaches an image that
// the initramfs holds to a device of the kernel with qemu-nbd, by netlink and by
// ioctls, mounts a partition of it, writes there, and detaches it. Then other clients
// come to the socket of a server whose device is attached, and nbd-client attaches
// devices to servers.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/test/endtoend/treehash"
)

const (
	image  = "/disk.qcow2"
	device = "/dev/nbd0"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "nbdguest is for guests only")
		os.Exit(1)
	}
	if err := run(); err != nil {
		fmt.Println("guest-error:", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for dir, fs := range map[string]string{"/dev": "devtmpfs", "/proc": "proc", "/sys": "sysfs", "/tmp": "tmpfs"} {
		if err := unix.Mount(fs, dir, fs, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	// Without the module there is a clear error.
	if out, err := nbd("-c", device, "-f", "qcow2", image); err == nil || !strings.Contains(out, "modprobe nbd") {
		return fmt.Errorf("without the module: %v, %s", err, out)
	}
	module, err := os.Open("/nbd.ko")
	if err != nil {
		return err
	}
	if err := unix.FinitModule(int(module.Fd()), "nbds_max=4", 0); err != nil {
		return fmt.Errorf("load nbd.ko: %w", err)
	}
	for i, method := range []string{"netlink", "ioctl", "auto"} {
		if err := attach(method, i); err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		fmt.Println("guest-attached:", method)
	}
	if err := vsock(); err != nil {
		return fmt.Errorf("vsock: %w", err)
	}
	if err := secondClients(); err != nil {
		return fmt.Errorf("second client: %w", err)
	}
	if err := foreignClient(); err != nil {
		return fmt.Errorf("nbd-client: %w", err)
	}
	if err := giveBack(); err != nil {
		return err
	}
	fmt.Println("guest-done")
	return nil
}

// giveBack writes the image to the guest's disk.
func giveBack() error {
	b, err := os.ReadFile(image)
	if err != nil {
		return err
	}
	return os.WriteFile("/dev/nvme0n1", b, 0)
}

func nbd(args ...string) (string, error) {
	out, err := exec.Command("/qemu-nbd", args...).CombinedOutput()
	return string(out), err
}

// sys reads a file of the first device in sysfs.
func sys(name string) string { return sysOf(device, name) }

func sysOf(device, name string) string {
	b, err := os.ReadFile("/sys/block/" + filepath.Base(device) + "/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// attach attaches the image, uses it, and detaches it. round counts the files that
// earlier ones have left.
func attach(method string, round int) error {
	if out, err := nbd("-c", device, "--attach", method, "-f", "qcow2", image); err != nil {
		return fmt.Errorf("attach: %w: %s", err, out)
	}
	// The device has its size and its partitions by now.
	sectors, err := strconv.ParseInt(sys("size"), 10, 64)
	if err != nil {
		return err
	}
	fmt.Printf("guest-size: %d\n", sectors*512)
	if _, err := os.Stat(device + "p1"); err != nil {
		return err
	}
	if out, err := nbd("-c", device, "--attach", method, "-f", "qcow2", "-r", "-k", "/tmp/other", image); err == nil {
		return fmt.Errorf("attaching a device in use succeeds: %s", out)
	}
	if err := unix.Mount(device+"p1", "/mnt", "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	files, digest, err := treehash.Sum("/mnt")
	if err != nil {
		return err
	}
	if round == 0 {
		fmt.Printf("guest-files: %d %s\n", files, digest)
	}
	for i := range round {
		b, err := os.ReadFile(fmt.Sprintf("/mnt/written-%d", i))
		if err != nil || !bytes.Equal(b, content(i)) {
			return fmt.Errorf("what was written in round %d is lost: %w", i, err)
		}
	}
	if err := os.WriteFile(fmt.Sprintf("/mnt/written-%d", round), content(round), 0o644); err != nil {
		return err
	}
	if err := unix.Unmount("/mnt", 0); err != nil {
		return err
	}
	out, err := nbd("-d", device)
	if err != nil || out != device+" disconnected\n" {
		return fmt.Errorf("detach: %w: %s", err, out)
	}
	// The device is gone by now.
	if pid := sys("pid"); pid != "" {
		return errors.New("the device is still attached")
	}
	if err := waitGone(image, "qcow2"); err != nil {
		return err
	}
	if out, err := exec.Command("/qemu-img", "check", image).CombinedOutput(); err != nil {
		return fmt.Errorf("check: %w: %s", err, out)
	}
	return nil
}

// waitGone waits until the server has closed its image: it ends when the device
// goes, but nobody waits for it.
func waitGone(image, format string) error {
	for {
		// The image can be opened for writing when nobody else has it.
		out, err := exec.Command("/qemu-img", "resize", "-q", "-f", format, image, "+0").CombinedOutput()
		if err == nil {
			return nil
		}
		if !strings.Contains(string(out), "lock") {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
}

func content(round int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("round %d ", round)), 100_000)
}
