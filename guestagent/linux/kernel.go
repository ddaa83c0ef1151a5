//go:build linux

package linux

import (
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// realKernel is the kernel that the program runs on.
type realKernel struct{}

// Numbers of linux/fs.h: FIFREEZE, FITHAW and FITRIM.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
	fiTrim   = 0xC0185879
)

func onDir(dir string, call func(fd int) error) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return call(fd)
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

func (realKernel) Freeze(dir string) error {
	return onDir(dir, func(fd int) error { return ioctl(fd, fiFreeze, nil) })
}

func (realKernel) Thaw(dir string) error {
	return onDir(dir, func(fd int) error { return ioctl(fd, fiThaw, nil) })
}

func (realKernel) Trim(dir string, minimum uint64) (trimmed, used uint64, err error) {
	r := struct{ start, length, minimum uint64 }{0, 1<<64 - 1, minimum}
	err = onDir(dir, func(fd int) error { return ioctl(fd, fiTrim, unsafe.Pointer(&r)) })
	return r.length, r.minimum, err
}

func (realKernel) Space(dir string) (used, total, privileged uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, 0, err
	}
	size := uint64(st.Frsize)
	if size == 0 {
		size = uint64(st.Bsize)
	}
	u := st.Blocks - st.Bfree
	return u * size, (u + st.Bavail) * size, st.Blocks * size, nil
}

func (realKernel) SetClock(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Settimeofday(&tv)
}

func withRTC(call func(fd int) error) error {
	var first error
	for _, name := range []string{"/dev/rtc", "/dev/rtc0"} {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			return call(fd)
		}
		if first == nil {
			first = &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
	return first
}

func (realKernel) ReadRTC() (t time.Time, err error) {
	err = withRTC(func(fd int) error {
		r, err := unix.IoctlGetRTCTime(fd)
		if err == nil {
			t = time.Date(int(r.Year)+1900, time.Month(r.Mon+1), int(r.Mday), int(r.Hour), int(r.Min), int(r.Sec), 0, time.UTC)
		}
		return err
	})
	return t, err
}

func (realKernel) WriteRTC(t time.Time) error {
	t = t.UTC()
	return withRTC(func(fd int) error {
		return unix.IoctlSetRTCTime(fd, &unix.RTCTime{Sec: int32(t.Second()), Min: int32(t.Minute()), Hour: int32(t.Hour()),
			Mday: int32(t.Day()), Mon: int32(t.Month()) - 1, Year: int32(t.Year()) - 1900})
	})
}

// nvmeCommand is struct nvme_admin_cmd of linux/nvme_ioctl.h.
type nvmeCommand struct {
	opcode, flags                            uint8
	_                                        uint16
	nsid, cdw2, cdw3                         uint32
	metadata, addr                           uint64
	metadataLen, dataLen                     uint32
	cdw10, cdw11, cdw12, cdw13, cdw14, cdw15 uint32
	timeout, result                          uint32
}

// The log page of NVMe health: NVM Express base specification, 5.16.1.3.
const (
	nvmeAdmin      = 0xC0484E41 // NVME_IOCTL_ADMIN_CMD
	nvmeGetLogPage = 0x02
	nvmeAll        = 0xFFFFFFFF
	nvmeSmartLog   = 0x02
	nvmeKeepEvent  = 1 << 15
	smartLogBytes  = 512
)

func (realKernel) Smart(device string) (*SmartLog, error) {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: device, Err: err}
	}
	defer unix.Close(fd)
	var log [smartLogBytes]byte
	cmd := nvmeCommand{opcode: nvmeGetLogPage, nsid: nvmeAll, addr: uint64(uintptr(unsafe.Pointer(&log[0]))),
		dataLen: smartLogBytes, cdw10: nvmeSmartLog | nvmeKeepEvent | (smartLogBytes/4-1)<<16}
	err = ioctl(fd, nvmeAdmin, unsafe.Pointer(&cmd))
	runtime.KeepAlive(&log)
	if err != nil {
		return nil, err
	}
	return parseSmart(log[:]), nil
}

func (realKernel) Load() ([3]float64, error) {
	var i unix.Sysinfo_t
	err := unix.Sysinfo(&i)
	const scale = 1 << 16
	return [3]float64{float64(i.Loads[0]) / scale, float64(i.Loads[1]) / scale, float64(i.Loads[2]) / scale}, err
}

func (realKernel) PowerOff(mode string) error {
	unix.Sync()
	return unix.Reboot(map[string]int{"halt": unix.LINUX_REBOOT_CMD_HALT, "powerdown": unix.LINUX_REBOOT_CMD_POWER_OFF,
		"reboot": unix.LINUX_REBOOT_CMD_RESTART}[mode])
}

func (realKernel) Signal(pid, signal int) error { return unix.Kill(pid, syscall.Signal(signal)) }
