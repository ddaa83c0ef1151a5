//go:build linux

package linux

import (
	"context"
	"encoding/binary"
	"io/fs"
	"path"
	"strings"

	"github.com/cowl-disk/cowl/guestagent"
)

// Disk is a disk or partition in the reply of guest-get-disks.
type Disk struct {
	Name         string       `qga:"name"`
	Partition    bool         `qga:"partition"`
	Dependencies []string     `qga:"dependencies,optional"`
	Address      *DiskAddress `qga:"address,optional"`
	Alias        *string      `qga:"alias,optional"`
	Smart        *SmartLog    `qga:"smart,optional"`
}

func (s *System) disks(context.Context, guestagent.None) ([]Disk, error) {
	entries, err := s.list("/sys/block")
	if err != nil {
		return nil, cause(err, "Can't open directory \"/sys/block\"")
	}
	// Lists are made from the end, as QEMU makes them.
	list := []Disk{}
	prepend := func(d Disk) { list = append(list, d) }
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		dir := "/sys/block/" + e.Name()
		if size := s.line(dir + "/size"); size == "" || size == "0" {
			continue
		}
		name := s.devnode(dir)
		if name == "" {
			continue
		}
		d := Disk{Name: name}
		if alias := s.property(dir, "DM_NAME"); alias != "" {
			d.Alias = &alias
		} else if alias := s.line(dir + "/dm/name"); alias != "" {
			d.Alias = &alias
		}
		if sys, err := s.real(dir); err == nil && !strings.Contains(sys, "/devices/virtual/block/") {
			d.Address = s.address(sys)
		}
		if slaves, err := s.list(dir + "/slaves"); err == nil {
			d.Dependencies = []string{}
			for i := len(slaves) - 1; i >= 0; i-- {
				if dep := s.devnode(dir + "/slaves/" + slaves[i].Name()); dep != "" {
					d.Dependencies = append(d.Dependencies, dep)
				}
			}
		}
		if d.Address != nil && d.Address.Bus == busNVMe {
			// A device without the log has no health to report.
			d.Smart, _ = s.Kernel.Smart(s.path(name))
		}
		prepend(d)
		s.partitions(e.Name(), dir, name, prepend)
	}
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list, nil
}

// partitions finds the partitions of a disk: sda1 of sda, nvme0n1p1 of nvme0n1.
func (s *System) partitions(disk, dir, node string, add func(Disk)) {
	entries, err := s.list(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), disk)
		if !ok || !e.IsDir() || strings.TrimLeft(strings.TrimPrefix(number, "p"), "0123456789") != "" || strings.Trim(number, "p") == "" {
			continue
		}
		if name := s.devnode(dir + "/" + e.Name()); name != "" {
			add(Disk{Name: name, Partition: true, Dependencies: []string{node}})
		}
	}
}

// devnode returns the device file of a device in sysfs, "" if it has none.
func (s *System) devnode(dir string) string {
	text, err := s.read(dir + "/uevent")
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(text, "\n") {
		if name, ok := strings.CutPrefix(line, "DEVNAME="); ok {
			return path.Join("/dev", name)
		}
	}
	return ""
}

// property returns what udev knows of a block device, "" without udev.
func (s *System) property(dir, key string) string {
	number := s.line(dir + "/dev")
	if number == "" {
		return ""
	}
	text, err := s.read("/run/udev/data/b" + number)
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(text, "\n") {
		if v, ok := strings.CutPrefix(line, "E:"+key+"="); ok {
			return v
		}
	}
	return ""
}

// SmartLog is the health of an NVMe device. Large counters have two halves.
type SmartLog struct {
	Type                    string `qga:"type"`
	CriticalWarning         int64  `qga:"critical-warning"`
	Temperature             int64  `qga:"temperature"`
	AvailableSpare          int64  `qga:"available-spare"`
	AvailableSpareThreshold int64  `qga:"available-spare-threshold"`
	PercentageUsed          int64  `qga:"percentage-used"`
	DataUnitsReadLo         uint64 `qga:"data-units-read-lo"`
	DataUnitsReadHi         uint64 `qga:"data-units-read-hi"`
	DataUnitsWrittenLo      uint64 `qga:"data-units-written-lo"`
	DataUnitsWrittenHi      uint64 `qga:"data-units-written-hi"`
	HostReadCommandsLo      uint64 `qga:"host-read-commands-lo"`
	HostReadCommandsHi      uint64 `qga:"host-read-commands-hi"`
	HostWriteCommandsLo     uint64 `qga:"host-write-commands-lo"`
	HostWriteCommandsHi     uint64 `qga:"host-write-commands-hi"`
	ControllerBusyTimeLo    uint64 `qga:"controller-busy-time-lo"`
	ControllerBusyTimeHi    uint64 `qga:"controller-busy-time-hi"`
	PowerCyclesLo           uint64 `qga:"power-cycles-lo"`
	PowerCyclesHi           uint64 `qga:"power-cycles-hi"`
	PowerOnHoursLo          uint64 `qga:"power-on-hours-lo"`
	PowerOnHoursHi          uint64 `qga:"power-on-hours-hi"`
	UnsafeShutdownsLo       uint64 `qga:"unsafe-shutdowns-lo"`
	UnsafeShutdownsHi       uint64 `qga:"unsafe-shutdowns-hi"`
	MediaErrorsLo           uint64 `qga:"media-errors-lo"`
	MediaErrorsHi           uint64 `qga:"media-errors-hi"`
	ErrorLogEntriesLo       uint64 `qga:"number-of-error-log-entries-lo"`
	ErrorLogEntriesHi       uint64 `qga:"number-of-error-log-entries-hi"`
}

// smartCounters is where the counters begin in the log.
const smartCounters = 32

func parseSmart(p []byte) *SmartLog {
	l := &SmartLog{Type: busNVMe, CriticalWarning: int64(p[0]), Temperature: int64(binary.LittleEndian.Uint16(p[1:])),
		AvailableSpare: int64(p[3]), AvailableSpareThreshold: int64(p[4]), PercentageUsed: int64(p[5])}
	for i, f := range []*uint64{&l.DataUnitsReadLo, &l.DataUnitsReadHi, &l.DataUnitsWrittenLo, &l.DataUnitsWrittenHi,
		&l.HostReadCommandsLo, &l.HostReadCommandsHi, &l.HostWriteCommandsLo, &l.HostWriteCommandsHi,
		&l.ControllerBusyTimeLo, &l.ControllerBusyTimeHi, &l.PowerCyclesLo, &l.PowerCyclesHi, &l.PowerOnHoursLo, &l.PowerOnHoursHi,
		&l.UnsafeShutdownsLo, &l.UnsafeShutdownsHi, &l.MediaErrorsLo, &l.MediaErrorsHi, &l.ErrorLogEntriesLo, &l.ErrorLogEntriesHi} {
		*f = binary.LittleEndian.Uint64(p[smartCounters+8*i:])
	}
	return l
}
