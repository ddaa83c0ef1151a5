//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/guestagent/posix"
)

// System is a Linux system.
type System struct {
	// Root is the folder that stands for "/"; "" is "/".
	Root string
	// Kernel is what system calls go to.
	Kernel Kernel
}

// Kernel is what the agent asks of the kernel beside reading and writing files.
type Kernel interface {
	// Freeze, Thaw and Trim act on the file system mounted at a folder.
	Freeze(dir string) error
	Thaw(dir string) error
	// Trim discards what is not used in pieces of at least minimum bytes. It
	// returns the bytes discarded and the minimum that was used.
	Trim(dir string, minimum uint64) (trimmed, used uint64, err error)
	// Space reports the bytes in use, of users, and in all.
	Space(dir string) (used, total, privileged uint64, err error)
	// SetClock sets the system's clock.
	SetClock(t time.Time) error
	// ReadRTC and WriteRTC use the hardware clock, which runs in UTC.
	ReadRTC() (time.Time, error)
	WriteRTC(t time.Time) error
	// Smart reads the health log of an NVMe device.
	Smart(device string) (*SmartLog, error)
	// Links and Addresses list the network interfaces and their addresses.
	Links() ([]Link, error)
	Addresses() ([]Address, error)
	// Load returns the load averages.
	Load() ([3]float64, error)
	// PowerOff ends the system at once: mode is halt, powerdown or reboot.
	PowerOff(mode string) error
	// Signal sends a signal to a process.
	Signal(pid, signal int) error
}

// New returns the system that the program runs on.
func New() *System { return &System{Root: "/", Kernel: realKernel{}} }

func (s *System) path(name string) string { return filepath.Join("/", s.Root, name) }

// real resolves all links of a path. The result begins at Root.
func (s *System) real(name string) (string, error) {
	p, err := resolve(s.path(name))
	if err != nil || s.path("/") == "/" {
		return p, err
	}
	root, err := resolve(s.path("/"))
	return filepath.Join("/", strings.TrimPrefix(p, root)), err
}

// resolve has the kernel resolve the links of a path, which is faster than looking at
// each part of it.
func resolve(name string) (string, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	p, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return filepath.EvalSymlinks(name)
	}
	return p, nil
}

func (s *System) read(name string) (string, error) {
	data, err := os.ReadFile(s.path(name))
	return string(data), err
}

// line returns the first line of a small file without space around it, "" if it
// cannot be read.
func (s *System) line(name string) string {
	text, err := s.read(name)
	if err != nil {
		return ""
	}
	text, _, _ = strings.Cut(text, "\n")
	return strings.TrimSpace(text)
}

func (s *System) exists(name string) bool {
	_, err := os.Stat(s.path(name))
	return err == nil
}

// list returns the entries of a folder in the order of the folder, as QEMU does.
func (s *System) list(name string) ([]os.DirEntry, error) {
	f, err := os.Open(s.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

// cause puts the error of the system after a text, as QEMU does.
func cause(err error, format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), guestagent.Cause(err))
}

type trimArgs struct {
	Minimum *int64 `qga:"minimum,optional"`
}

type timeArgs struct {
	Time *int64 `qga:"time,optional"`
}

type modeArgs struct {
	Mode *string `qga:"mode,optional"`
}

// Commands returns the commands of the system.
func (s *System) Commands() []guestagent.Command {
	type none = guestagent.None
	shutdown := guestagent.New("guest-shutdown", "0.15", "Shut the guest down: powerdown, halt or reboot", s.shutdown)
	disk := guestagent.New("guest-suspend-disk", "1.1", "Suspend the guest to disk", s.suspender(suspendDisk))
	ram := guestagent.New("guest-suspend-ram", "1.1", "Suspend the guest to memory", s.suspender(suspendRAM))
	hybrid := guestagent.New("guest-suspend-hybrid", "1.1", "Suspend the guest to both", s.suspender(suspendHybrid))
	for _, c := range []*guestagent.Command{&shutdown, &disk, &ram, &hybrid} {
		c.NoReply = true
	}
	commands := []guestagent.Command{shutdown, disk, ram, hybrid,
		guestagent.New("guest-set-time", "1.5", "Set the clock, or read it from the hardware", s.setTime),
		guestagent.New("guest-fstrim", "1.2", "Discard unused blocks of all file systems", s.trim),
		guestagent.New("guest-network-get-interfaces", "1.1", "Report the network interfaces", s.interfaces),
		guestagent.New("guest-network-get-route", "9.1", "Report the routes", s.routes),
		guestagent.New("guest-get-vcpus", "1.5", "Report the processors", s.vcpus),
		guestagent.New("guest-set-vcpus", "1.5", "Take processors online or offline", s.setVCPUs),
		guestagent.New("guest-get-disks", "5.2", "Report disks and partitions", s.disks),
		guestagent.New("guest-get-fsinfo", "2.2", "Report file systems and their disks", s.fsinfo),
		guestagent.New("guest-set-user-password", "2.3", "Set a user's password", s.setPassword),
		guestagent.New("guest-get-memory-blocks", "2.3", "Report the memory blocks", s.memoryBlocks),
		guestagent.New("guest-set-memory-blocks", "2.3", "Take memory blocks online or offline", s.setMemoryBlocks),
		guestagent.New("guest-get-memory-block-info", "2.3", "Report the size of memory blocks", s.memoryBlockInfo),
		guestagent.New("guest-get-users", "2.10", "Report who is logged in", s.users),
		guestagent.New("guest-get-diskstats", "7.1", "Report statistics of disks", s.diskStats),
		guestagent.New("guest-get-cpustats", "7.1", "Report statistics of processors", s.cpuStats),
		guestagent.New("guest-get-load", "10.0", "Report the load averages", s.load),
		guestagent.New("guest-get-timezone", "2.10", "Report the time zone",
			func(context.Context, none) (posix.Timezone, error) {
				return posix.ReadTimezone(s.path("/"), time.Now()), nil
			}),
		guestagent.New("guest-get-osinfo", "2.10", "Report the operating system",
			func(context.Context, none) (posix.OSInfo, error) { return posix.ReadOSInfo(s.path("/")) }),
	}
	return append(commands, posix.SSH{Root: s.path("/")}.Commands()...)
}

// Load is the reply of guest-get-load.
type Load struct {
	One     float64 `qga:"load1m"`
	Five    float64 `qga:"load5m"`
	Fifteen float64 `qga:"load15m"`
}

func (s *System) load(context.Context, guestagent.None) (Load, error) {
	l, err := s.Kernel.Load()
	if err != nil {
		return Load{}, cause(err, "cannot query load average")
	}
	return Load{l[0], l[1], l[2]}, nil
}

func notExist(err error) bool { return errors.Is(err, os.ErrNotExist) }
