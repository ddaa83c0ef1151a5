//go:build freebsd

package freebsd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/guestagent/posix"
)

// System is a FreeBSD system.
type System struct {
	suspend *os.File // /dev/ufssuspend while file systems are frozen: closing it thaws
	frozen  int64
}

// New returns the system that the program runs on.
func New() *System { return &System{} }

type modeArgs struct {
	Mode *string `qga:"mode,optional"`
}

type timeArgs struct {
	Time *int64 `qga:"time,optional"`
}

type passwordArgs struct {
	User     string `qga:"username"`
	Password string `qga:"password"`
	Crypted  bool   `qga:"crypted"`
}

// Load is the reply of guest-get-load.
type Load struct {
	One     float64 `qga:"load1m"`
	Five    float64 `qga:"load5m"`
	Fifteen float64 `qga:"load15m"`
}

// Interface is a network interface in the reply.
type Interface struct {
	Name      string      `qga:"name"`
	Hardware  *string     `qga:"hardware-address,optional"`
	Addresses []IPAddress `qga:"ip-addresses,optional"`
}

// IPAddress is an address in the reply.
type IPAddress struct {
	Address string `qga:"ip-address"`
	Type    string `qga:"ip-address-type"`
	Prefix  int64  `qga:"prefix"`
}

// Commands returns the commands of the system.
func (s *System) Commands() []guestagent.Command {
	type none = guestagent.None
	shutdown := guestagent.New("guest-shutdown", "0.15", "Shut the guest down: powerdown, halt or reboot", s.shutdown)
	shutdown.NoReply = true
	commands := []guestagent.Command{shutdown,
		guestagent.New("guest-set-time", "1.5", "Set the clock", s.setTime),
		guestagent.New("guest-set-user-password", "2.3", "Set a user's password", s.setPassword),
		guestagent.New("guest-network-get-interfaces", "1.1", "Report the network interfaces", s.interfaces),
		guestagent.New("guest-get-load", "10.0", "Report the load averages", s.load),
		guestagent.New("guest-get-users", "2.10", "Report who is logged in", s.users),
		guestagent.New("guest-get-timezone", "2.10", "Report the time zone",
			func(context.Context, none) (posix.Timezone, error) { return posix.ReadTimezone("/", time.Now()), nil }),
		guestagent.New("guest-get-osinfo", "2.10", "Report the operating system",
			func(context.Context, none) (posix.OSInfo, error) { return posix.ReadOSInfo("/") }),
	}
	return append(commands, posix.SSH{Root: "/"}.Commands()...)
}

func (s *System) users(context.Context, guestagent.None) ([]User, error) {
	data, err := os.ReadFile("/var/run/utx.active")
	if err != nil || len(data) > maxUtx {
		return []User{}, nil
	}
	return parseUtx(data), nil
}

func (s *System) shutdown(ctx context.Context, args modeArgs) (guestagent.None, error) {
	mode := "powerdown"
	if args.Mode != nil {
		mode = *args.Mode
	}
	flag, ok := map[string]string{"powerdown": "-p", "halt": "-h", "reboot": "-r"}[mode]
	if !ok {
		return guestagent.None{}, errors.New("mode is invalid (valid values are: halt|powerdown|reboot")
	}
	return guestagent.None{}, posix.Run(ctx, "shutdown", nil, 0, "/sbin/shutdown", flag, "+0", "hypervisor initiated shutdown")
}

func (s *System) setTime(_ context.Context, args timeArgs) (guestagent.None, error) {
	if args.Time == nil {
		// The kernel reads the hardware clock at its start only.
		return guestagent.None{}, errors.New("setting the time from the hardware clock is not supported on this system")
	}
	tv := unix.NsecToTimeval(*args.Time)
	if err := unix.Settimeofday(&tv); err != nil {
		return guestagent.None{}, fmt.Errorf("Failed to set time to guest: %w", guestagent.Words(err))
	}
	return guestagent.None{}, nil
}

func (s *System) setPassword(ctx context.Context, args passwordArgs) (guestagent.None, error) {
	password, err := guestagent.DecodeBase64(args.Password)
	if err != nil {
		return guestagent.None{}, err
	}
	if strings.Contains(string(password), "\n") {
		return guestagent.None{}, errors.New("forbidden characters in raw password")
	}
	if strings.ContainsAny(args.User, "\n:") {
		return guestagent.None{}, errors.New("forbidden characters in username")
	}
	flag := "-h"
	if args.Crypted {
		flag = "-H"
	}
	return guestagent.None{}, posix.Run(ctx, "set user password", password, 0, "pw", "usermod", "-n", args.User, flag, "0")
}

func (s *System) interfaces(context.Context, guestagent.None) ([]Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("getifaddrs failed: %w", err)
	}
	list := []Interface{}
	for _, i := range all {
		n := Interface{Name: i.Name}
		if len(i.HardwareAddr) > 0 {
			hw := i.HardwareAddr.String()
			n.Hardware = &hw
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			ip, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			kind := "ipv6"
			if ip.IP.To4() != nil {
				kind = "ipv4"
			}
			ones, _ := ip.Mask.Size()
			n.Addresses = append(n.Addresses, IPAddress{ip.IP.String(), kind, int64(ones)})
		}
		list = append(list, n)
	}
	return list, nil
}

func (s *System) load(context.Context, guestagent.None) (Load, error) {
	raw, err := unix.SysctlRaw("vm.loadavg")
	type loadavg struct {
		values [3]uint32
		scale  int
	}
	if err != nil || len(raw) < int(unsafe.Sizeof(loadavg{})) {
		return Load{}, fmt.Errorf("cannot query load average: %w", err)
	}
	l := (*loadavg)(unsafe.Pointer(&raw[0]))
	f := func(i int) float64 { return float64(l.values[i]) / float64(l.scale) }
	return Load{f(0), f(1), f(2)}, nil
}

// ufsSuspend is UFSSUSPEND of ufs/ffs/fs.h: _IOW('U', 1, fsid_t).
const ufsSuspend = 0x80085501

// Prepare implements guestagent.Freezer. Only UFS can be suspended.
func (s *System) Prepare(all bool, mountpoints []string) (func(context.Context) (int64, error), error) {
	n, err := unix.Getfsstat(nil, unix.MNT_NOWAIT)
	if err != nil {
		return nil, fmt.Errorf("getmntinfo failed: %w", guestagent.Words(err))
	}
	mounts := make([]unix.Statfs_t, n)
	if n, err = unix.Getfsstat(mounts, unix.MNT_NOWAIT); err != nil {
		return nil, fmt.Errorf("getmntinfo failed: %w", guestagent.Words(err))
	}
	mounts = mounts[:n]
	return func(context.Context) (int64, error) {
		if s.suspend != nil {
			return 0, errors.New("filesystems have already frozen")
		}
		f, err := os.OpenFile("/dev/ufssuspend", os.O_RDWR, 0)
		if err != nil {
			return 0, guestagent.Cause(err)
		}
		s.suspend, s.frozen = f, 0
		for i := len(mounts) - 1; i >= 0; i-- {
			m := &mounts[i]
			dir := unix.ByteSliceToString(m.Mntonname[:])
			wanted := all
			for _, w := range mountpoints {
				wanted = wanted || w == dir
			}
			if !wanted || unix.ByteSliceToString(m.Fstypename[:]) != "ufs" {
				continue
			}
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ufsSuspend, uintptr(unsafe.Pointer(&m.Fsid)))
			switch errno {
			case 0:
				s.frozen++
			case unix.EBUSY: // the kernel suspends one at a time
			default:
				return s.frozen, fmt.Errorf("failed to freeze %s: %w", dir, guestagent.Words(errno))
			}
		}
		if s.frozen == 0 {
			s.suspend.Close()
			s.suspend = nil
		}
		return s.frozen, nil
	}, nil
}

// Thaw implements guestagent.Freezer.
func (s *System) Thaw() (int64, error) {
	n := s.frozen
	s.frozen = 0
	if s.suspend != nil {
		s.suspend.Close()
		s.suspend = nil
	}
	return n, nil
}
