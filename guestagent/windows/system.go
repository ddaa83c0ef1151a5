//go:build windows

// Package windows has the commands of the guest agent that touch a Windows system, as
// far as there are calls of the system for them. There is no freezing: it needs a
// provider of shadow copies that the system loads as a library.
package windows

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/cowl-disk/cowl/guestagent"
)

type modeArgs struct {
	Mode *string `qga:"mode,optional"`
}

type timeArgs struct {
	Time *int64 `qga:"time,optional"`
}

// OSInfo is the reply of guest-get-osinfo.
type OSInfo struct {
	KernelRelease string `qga:"kernel-release"`
	KernelVersion string `qga:"kernel-version"`
	Machine       string `qga:"machine"`
	ID            string `qga:"id"`
	Name          string `qga:"name"`
	VersionID     string `qga:"version-id"`
}

// Timezone is the reply of guest-get-timezone.
type Timezone struct {
	Zone   string `qga:"zone"`
	Offset int64  `qga:"offset"`
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
func Commands() []guestagent.Command {
	shutdown := guestagent.New("guest-shutdown", "0.15", "Shut the guest down: powerdown, halt or reboot", shutdown)
	toDisk := guestagent.New("guest-suspend-disk", "1.1", "Suspend the guest to disk", suspend(true))
	toRAM := guestagent.New("guest-suspend-ram", "1.1", "Suspend the guest to memory", suspend(false))
	for _, c := range []*guestagent.Command{&shutdown, &toDisk, &toRAM} {
		c.NoReply = true
	}
	return append(guestagent.KeyCommands(openKeys), shutdown, toDisk, toRAM,
		guestagent.New("guest-get-load", "10.0", "Report the load averages", new(loadMeter).report),
		guestagent.New("guest-get-devices", "5.2", "Report the devices and their drivers", devices),
		guestagent.New("guest-set-user-password", "2.3", "Set the password of a user", setPassword),
		guestagent.New("guest-fstrim", "1.2", "Discard what file systems do not use", trim),
		guestagent.New("guest-get-vcpus", "1.5", "Report the processors", processors),
		guestagent.New("guest-get-disks", "5.2", "Report the disks", disks),
		guestagent.New("guest-get-fsinfo", "2.2", "Report the mounted file systems and their disks", fsinfo),
		guestagent.New("guest-get-users", "2.10", "Report who is logged in", users),
		guestagent.New("guest-set-time", "1.5", "Set the clock", setTime),
		guestagent.New("guest-network-get-interfaces", "1.1", "Report the network interfaces", interfaces),
		guestagent.New("guest-get-timezone", "2.10", "Report the time zone",
			func(context.Context, guestagent.None) (Timezone, error) {
				name, offset := time.Now().Zone()
				return Timezone{name, int64(offset)}, nil
			}),
		guestagent.New("guest-get-osinfo", "2.10", "Report the operating system",
			func(context.Context, guestagent.None) (OSInfo, error) {
				v := windows.RtlGetVersion()
				version := fmt.Sprintf("%d.%d", v.MajorVersion, v.MinorVersion)
				return OSInfo{KernelRelease: fmt.Sprint(v.BuildNumber), KernelVersion: version, Machine: machine, ID: "mswindows",
					Name: "Microsoft Windows", VersionID: version}, nil
			}),
	)
}

func shutdown(_ context.Context, args modeArgs) (guestagent.None, error) {
	mode := "powerdown"
	if args.Mode != nil {
		mode = *args.Mode
	}
	flag, ok := map[string]uint32{"powerdown": windows.EWX_POWEROFF, "halt": windows.EWX_SHUTDOWN, "reboot": windows.EWX_REBOOT}[mode]
	if !ok {
		return guestagent.None{}, errors.New("Parameter 'mode' expects 'halt', 'powerdown', or 'reboot'")
	}
	if err := enable("SeShutdownPrivilege"); err != nil {
		return guestagent.None{}, fmt.Errorf("guest-shutdown failed: %w", err)
	}
	const reason = windows.SHTDN_REASON_MAJOR_OTHER | windows.SHTDN_REASON_MINOR_OTHER | windows.SHTDN_REASON_FLAG_PLANNED
	if err := windows.ExitWindowsEx(flag|windows.EWX_FORCE, reason); err != nil {
		return guestagent.None{}, fmt.Errorf("guest-shutdown failed: %w", err)
	}
	return guestagent.None{}, nil
}

// enable turns a privilege of the process on.
func enable(privilege string) error {
	var token windows.Token
	if err := windows.OpenProcessToken(windows.CurrentProcess(), windows.TOKEN_ADJUST_PRIVILEGES|windows.TOKEN_QUERY, &token); err != nil {
		return err
	}
	defer token.Close()
	name, err := windows.UTF16PtrFromString(privilege)
	if err != nil {
		return err
	}
	p := windows.Tokenprivileges{PrivilegeCount: 1}
	p.Privileges[0].Attributes = windows.SE_PRIVILEGE_ENABLED
	if err := windows.LookupPrivilegeValue(nil, name, &p.Privileges[0].Luid); err != nil {
		return err
	}
	return windows.AdjustTokenPrivileges(token, false, &p, 0, nil, nil)
}

func setTime(_ context.Context, args timeArgs) (guestagent.None, error) {
	if args.Time == nil {
		if err := exec.Command("w32tm", "/resync", "/nowait").Run(); err != nil {
			return guestagent.None{}, fmt.Errorf("failed to resync the clock: %w", err)
		}
		return guestagent.None{}, nil
	}
	if err := enable("SeSystemtimePrivilege"); err != nil {
		return guestagent.None{}, fmt.Errorf("Failed to set time to guest: %w", err)
	}
	t := time.Unix(0, *args.Time).UTC()
	st := windows.Systemtime{Year: uint16(t.Year()), Month: uint16(t.Month()), Day: uint16(t.Day()), Hour: uint16(t.Hour()),
		Minute: uint16(t.Minute()), Second: uint16(t.Second()), Milliseconds: uint16(t.Nanosecond() / 1e6)}
	set := windows.NewLazySystemDLL("kernel32.dll").NewProc("SetSystemTime")
	if ok, _, err := set.Call(uintptr(unsafe.Pointer(&st))); ok == 0 {
		return guestagent.None{}, fmt.Errorf("Failed to set time to guest: %w", err)
	}
	return guestagent.None{}, nil
}

func interfaces(context.Context, guestagent.None) ([]Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
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
