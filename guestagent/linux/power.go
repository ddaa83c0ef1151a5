//go:build linux

package linux

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/guestagent/posix"
)

// shutdown ends the guest with the first of these that is there: the programs that
// QEMU's agent runs, others of their name elsewhere, the init process, the kernel.
func (s *System) shutdown(ctx context.Context, args modeArgs) (guestagent.None, error) {
	mode := "powerdown"
	if args.Mode != nil {
		mode = *args.Mode
	}
	programs := map[string][2]string{"powerdown": {"poweroff", "-P"}, "halt": {"halt", "-H"}, "reboot": {"reboot", "-r"}}
	p, ok := programs[mode]
	if !ok {
		return guestagent.None{}, errors.New("mode is invalid (valid values are: halt|powerdown|reboot")
	}
	run := func(argv ...string) error { return posix.Run(ctx, "shutdown", nil, 0, argv...) }
	const reason = "hypervisor initiated shutdown"
	if program := s.path("/sbin/" + p[0]); posix.Executable(program) {
		return guestagent.None{}, run(program)
	}
	if program := s.path("/sbin/shutdown"); posix.Executable(program) {
		return guestagent.None{}, run(program, "-h", p[1], "+0", reason)
	}
	if program, ok := posix.Look(s.Root, p[0]); ok {
		return guestagent.None{}, run(program)
	}
	if program, ok := posix.Look(s.Root, "shutdown"); ok {
		return guestagent.None{}, run(program, "-h", p[1], "+0", reason)
	}
	if signal, ok := s.initSignal(mode); ok {
		return guestagent.None{}, s.Kernel.Signal(1, signal)
	}
	return guestagent.None{}, s.Kernel.PowerOff(mode)
}

// rtMin is SIGRTMIN of the C library, which systemd counts from.
const rtMin = 34

// initSignal returns the signal that tells the init process to end the system, if it
// is one that takes signals for it.
func (s *System) initSignal(mode string) (int, bool) {
	name := s.line("/proc/1/comm")
	if program, err := s.real("/proc/1/exe"); err == nil {
		name = path.Base(program)
	}
	signals := map[string]map[string]int{
		"systemd": {"powerdown": rtMin + 4, "halt": rtMin + 3, "reboot": rtMin + 5},
		"busybox": {"powerdown": int(syscall.SIGUSR2), "halt": int(syscall.SIGUSR1), "reboot": int(syscall.SIGTERM)},
	}
	signal, ok := signals[name][mode]
	return signal, ok && s.takesSignal(signal)
}

// takesSignal reports whether the init process waits for a signal: one that it does
// not handle would be lost.
func (s *System) takesSignal(signal int) bool {
	status, err := s.read("/proc/1/status")
	if err != nil {
		return false
	}
	for _, line := range strings.Split(status, "\n") {
		key, value, _ := strings.Cut(line, ":")
		if key != "SigCgt" && key != "SigBlk" {
			continue
		}
		if mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil && mask>>(signal-1)&1 != 0 {
			return true
		}
	}
	return false
}

type suspendMode int

const (
	suspendDisk suspendMode = iota
	suspendRAM
	suspendHybrid
)

// suspendNames are what systemd, pm-utils and the kernel call the modes.
var suspendNames = [...]struct{ unit, verb, pmOption, pmProgram, state string }{
	suspendDisk:   {"systemd-hibernate", "hibernate", "--hibernate", "pm-hibernate", "disk"},
	suspendRAM:    {"systemd-suspend", "suspend", "--suspend", "pm-suspend", "mem"},
	suspendHybrid: {"systemd-hybrid-sleep", "hybrid-sleep", "--suspend-hybrid", "pm-suspend-hybrid", ""},
}

const powerState = "/sys/power/state"

// quiet runs a program and returns its exit code, -1 if there is none.
func (s *System) quiet(name string, args ...string) int {
	program, ok := posix.Look(s.Root, name)
	if !ok {
		return -1
	}
	cmd := exec.Command(program, args...)
	_ = cmd.Run() // the code says it
	if cmd.ProcessState == nil {
		return -1
	}
	return cmd.ProcessState.ExitCode()
}

func (s *System) suspender(mode suspendMode) func(context.Context, guestagent.None) (guestagent.None, error) {
	return func(context.Context, guestagent.None) (guestagent.None, error) {
		return guestagent.None{}, s.suspend(mode)
	}
}

// suspend tries systemd, pm-utils and the kernel.
func (s *System) suspend(mode suspendMode) error {
	n := suspendNames[mode]
	var last error
	// Exit codes of status: 1 to 3 are states of a service, 4 is none that is known.
	if code := s.quiet("systemctl", "status", n.unit); code > 0 && code < 4 {
		code := s.quiet("systemctl", n.verb)
		if code == 0 {
			return nil
		}
		last = fmt.Errorf("the helper program 'systemctl %s' returned an unexpected exit status code (%d)", n.verb, code)
	}
	if s.quiet("pm-is-supported", n.pmOption) == 0 {
		code := s.quiet(n.pmProgram)
		if code == 0 {
			return nil
		}
		last = fmt.Errorf("the helper program '%s' returned an unexpected exit status code (%d)", n.pmProgram, code)
	}
	if states, err := s.read(powerState); n.state != "" && err == nil && slices.Contains(strings.Fields(states), n.state) {
		if err := s.writeSys(powerState, n.state); err != nil {
			return cause(err, "suspend: cannot write to '%s'", powerState)
		}
		return nil
	}
	if last == nil {
		last = errors.New("the requested suspend mode is not supported by the guest")
	}
	return last
}

// setTime sets the clock and writes it to the hardware; without a time, it sets the
// clock from the hardware.
func (s *System) setTime(ctx context.Context, args timeArgs) (guestagent.None, error) {
	if args.Time != nil {
		t := time.Unix(*args.Time/1e9, *args.Time%1e9/1e3*1e3)
		if y := t.UTC().Year(); y < 1970 || y >= 2070 {
			return guestagent.None{}, errors.New("Invalid time")
		}
		if err := s.Kernel.SetClock(t); err != nil {
			return guestagent.None{}, cause(err, "Failed to set time to guest")
		}
	}
	option := "-s"
	if args.Time != nil {
		option = "-w"
	}
	if program, ok := posix.Look(s.Root, "hwclock"); ok {
		return guestagent.None{}, posix.Run(ctx, "set hardware clock to system time", nil, 0, program, option)
	}
	if args.Time != nil {
		if err := s.Kernel.WriteRTC(time.Now()); err != nil {
			return guestagent.None{}, cause(err, "failed to set hardware clock to system time")
		}
		return guestagent.None{}, nil
	}
	t, err := s.Kernel.ReadRTC()
	if err != nil {
		return guestagent.None{}, cause(err, "failed to read the hardware clock")
	}
	if err := s.Kernel.SetClock(t); err != nil {
		return guestagent.None{}, cause(err, "Failed to set time to guest")
	}
	return guestagent.None{}, nil
}
