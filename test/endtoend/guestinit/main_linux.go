// Command guestinit is the first process of a test guest: it mounts the disk that
// was attached, prints a digest of its files, writes a file, and powers off.
package main

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/test/endtoend/treehash"
)

const disk = "/dev/nvme0n1"

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guestinit is for guests only")
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
	for i := 0; ; i++ {
		if _, err := os.Stat(disk); err == nil {
			break
		} else if i > 600 {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := unix.Mount(disk, "/mnt", "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", disk, err)
	}
	files, digest, err := treehash.Sum("/mnt")
	if err != nil {
		return err
	}
	fmt.Printf("guest-files: %d %s\n", files, digest)
	if err := os.WriteFile("/mnt/written-by-guest", bytes.Repeat([]byte("guest"), 200_000), 0o644); err != nil {
		return err
	}
	if err := unix.Unmount("/mnt", 0); err != nil {
		return err
	}
	fmt.Println("guest-done")
	return nil
}
