// Command fatguest is the first process of a test guest: it mounts the partitions of the disks
// that were attached, which have FAT file systems, changes files in them, and powers off.
package main

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

var partitions = []string{"/dev/nvme0n1p1", "/dev/nvme1n1p1"}

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "fatguest is for guests only")
		os.Exit(1)
	}
	if err := run(); err != nil {
		fmt.Println("guest-error:", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	if err := unix.Mount("dev", "/dev", "devtmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for _, name := range []string{"/fat.ko", "/vfat.ko", "/nls_cp437.ko", "/nls_ascii.ko"} {
		module, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(module.Fd()), "", 0); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	for _, partition := range partitions {
		if err := use(partition); err != nil {
			return fmt.Errorf("%s: %w", partition, err)
		}
	}
	fmt.Println("guest-done")
	return nil
}

// use mounts a partition, once it is there, and changes files in it.
func use(partition string) error {
	for i := 0; ; i++ {
		if _, err := os.Stat(partition); err == nil {
			break
		} else if i > 600 {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := unix.Mount(partition, "/mnt", "vfat", 0, "utf8,codepage=437,iocharset=ascii"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := change(); err != nil {
		return err
	}
	return unix.Unmount("/mnt", 0)
}

func change() error {
	b, err := os.ReadFile("/mnt/folder/Grüße.txt")
	if err != nil || string(b) != "from the host" {
		return fmt.Errorf("read: %q %v", b, err)
	}
	for _, do := range []func() error{
		func() error {
			return os.WriteFile("/mnt/folder/Grüße zurück.txt", bytes.Repeat([]byte("guest"), 200_000), 0o644)
		},
		func() error { return os.MkdirAll("/mnt/New Folder/inner", 0o755) },
		func() error { return os.WriteFile("/mnt/New Folder/inner/empty", nil, 0o644) },
		func() error { return os.WriteFile("/mnt/overwrite.me", []byte("of the guest"), 0o644) },
		func() error { return os.Rename("/mnt/rename.me", "/mnt/New Folder/renamed file") },
		func() error { return os.Rename("/mnt/moved folder", "/mnt/New Folder/inner/here") },
		func() error { return os.Remove("/mnt/delete.me") },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	f, err := os.OpenFile("/mnt/append.me", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(", and more"); err != nil {
		return err
	}
	return f.Close()
}
