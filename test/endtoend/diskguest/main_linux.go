// Command diskguest is the first process of a test guest: it works on each disk that was attached, as package
// diskwork says, reads the disks back, prints digests of them, and powers off.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/test/endtoend/diskwork"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "diskguest is for guests only")
		os.Exit(1)
	}
	if err := run(); err != nil {
		fmt.Println("guest-error:", err)
	} else {
		fmt.Println("guest-done")
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"sysfs", "/sys"}, {"proc", "/proc"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	disks, err := await()
	if err != nil {
		return err
	}
	for _, d := range disks {
		serial, err := os.ReadFile(filepath.Join(d, "device/serial"))
		if err != nil {
			return err
		}
		name := strings.TrimSpace(string(serial))
		if err := work(name, filepath.Join("/dev", filepath.Base(d))); err != nil {
			return fmt.Errorf("disk %s: %w", name, err)
		}
	}
	return nil
}

// await waits for as many disks as the kernel's command line says.
func await() (disks []string, err error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	want := 0
	for _, word := range strings.Fields(string(line)) {
		_, _ = fmt.Sscanf(word, "disks=%d", &want)
	}
	for range 600 {
		if disks, err = filepath.Glob("/sys/block/nvme[0-9]n1"); err != nil || want > 0 && len(disks) == want {
			return disks, err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("%d disks, want %d", len(disks), want)
}

func work(name, device string) error {
	// Past the guest's cache, so that what is read back comes from the device.
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	for _, s := range diskwork.Steps(name, size) {
		var err error
		switch s.Kind {
		case diskwork.Write:
			p := aligned(int(s.Length))
			copy(p, s.Data())
			_, err = f.WriteAt(p, s.Offset)
		case diskwork.Zero:
			err = rangeIoctl(f, unix.BLKZEROOUT, s)
		case diskwork.Discard:
			if err = rangeIoctl(f, unix.BLKDISCARD, s); err == unix.EOPNOTSUPP {
				err = nil
			}
		case diskwork.Flush:
			err = f.Sync()
		}
		if err != nil {
			return fmt.Errorf("%s of %d bytes at %d: %w", s.Kind, s.Length, s.Offset, err)
		}
	}
	h, p := sha256.New(), aligned(1<<20)
	for off := int64(0); off < size; {
		n, err := f.ReadAt(p[:min(int64(len(p)), size-off)], off)
		if err != nil && err != io.EOF || n == 0 {
			return fmt.Errorf("read at %d: %w", off, err)
		}
		h.Write(p[:n])
		off += int64(n)
	}
	fmt.Printf("guest-disk: %s %d %x\n", name, size, h.Sum(nil))
	return nil
}

func rangeIoctl(f *os.File, request uintptr, s diskwork.Step) error {
	r := [2]uint64{uint64(s.Offset), uint64(s.Length)}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&r))); e != 0 {
		return e
	}
	return nil
}

// aligned returns n bytes at an address that direct I/O takes.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & 4095
	return b[skip : skip+n]
}
