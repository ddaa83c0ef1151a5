//go:build linux

package linux

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/guestagent"
)

// FileSystem is a file system in the reply of guest-get-fsinfo.
type FileSystem struct {
	Name       string        `qga:"name"`
	Mountpoint string        `qga:"mountpoint"`
	Type       string        `qga:"type"`
	Used       *uint64       `qga:"used-bytes,optional"`
	Total      *uint64       `qga:"total-bytes,optional"`
	Privileged *uint64       `qga:"total-bytes-privileged,optional"`
	Disks      []DiskAddress `qga:"disk"`
}

// DiskAddress is where a disk is, as the hypervisor sees it.
type DiskAddress struct {
	PCI    PCIAddress  `qga:"pci-controller"`
	Bus    string      `qga:"bus-type"`
	BusNo  int64       `qga:"bus"`
	Target int64       `qga:"target"`
	Unit   int64       `qga:"unit"`
	Serial *string     `qga:"serial,optional"`
	Device *string     `qga:"dev,optional"`
	CCW    *CCWAddress `qga:"ccw-address,optional"`
}

// PCIAddress is the address of a controller; -1 where there is none.
type PCIAddress struct {
	Domain   int64 `qga:"domain"`
	Bus      int64 `qga:"bus"`
	Slot     int64 `qga:"slot"`
	Function int64 `qga:"function"`
}

// CCWAddress is the address of a channel device on s390x.
type CCWAddress struct {
	CSSID      int64 `qga:"cssid"`
	SSID       int64 `qga:"ssid"`
	Subchannel int64 `qga:"subchno"`
	Device     int64 `qga:"devno"`
}

const (
	busIDE     = "ide"
	busSCSI    = "scsi"
	busVirtio  = "virtio"
	busUSB     = "usb"
	busSATA    = "sata"
	busNVMe    = "nvme"
	busUnknown = "unknown"
)

// maxStack bounds devices on devices: of the kernel's own ones, no real stack is near.
const maxStack = 64

// fsinfo describes the file systems, the last one mounted first. What cannot be found
// out about one is left out, and does not concern the others.
func (s *System) fsinfo(context.Context, guestagent.None) ([]FileSystem, error) {
	mounts, err := s.mounts()
	if err != nil {
		return nil, err
	}
	list := []FileSystem{}
	for _, m := range slices.Backward(mounts) {
		f := FileSystem{Mountpoint: m.dir, Type: m.fstype, Disks: []DiskAddress{}}
		s.devices(fmt.Sprintf("/sys/dev/block/%d:%d", m.major, m.minor), &f, 0)
		slices.Reverse(f.Disks)
		if used, total, privileged, err := s.Kernel.Space(s.path(m.dir)); err == nil {
			f.Used, f.Total, f.Privileged = &used, &total, &privileged
		}
		list = append(list, f)
	}
	return list, nil
}

// devices adds the disks that a device is on.
func (s *System) devices(dev string, f *FileSystem, depth int) {
	sys, err := s.real(dev)
	if f.Name == "" {
		f.Name = path.Base(dev)
		if err == nil {
			f.Name = path.Base(sys)
		}
	}
	if err != nil || depth > maxStack {
		return
	}
	if !strings.Contains(sys, "/devices/virtual/block/") {
		if a := s.address(sys); a != nil {
			f.Disks = append(f.Disks, *a)
		}
		return
	}
	slaves, err := s.list(sys + "/slaves")
	if err != nil {
		return
	}
	for _, e := range slaves {
		s.devices(sys+"/slaves/"+e.Name(), f, depth+1)
	}
}

// address describes the disk of a device in sysfs, nil if nothing is known.
func (s *System) address(sys string) *DiskAddress {
	a := &DiskAddress{PCI: PCIAddress{-1, -1, -1, -1}, Bus: busUnknown}
	if node := s.devnode(sys); node != "" {
		a.Device = &node
	}
	if serial := s.serial(sys); serial != "" {
		a.Serial = &serial
	}
	known := false
	switch {
	case strings.Contains(sys, "/devices/pci"):
		known = s.pciAddress(sys, a)
	case strings.Contains(sys, "/devices/css"):
		known = ccwAddress(sys, a)
	case strings.Contains(sys, "/virtio"):
		known = virtioAddress(sys, a)
	}
	if !known && a.Device == nil && a.Serial == nil {
		return nil
	}
	return a
}

// serial returns the serial number of a disk: what udev made of it, else what the
// device says.
func (s *System) serial(sys string) string {
	if v := s.property(sys, "ID_SERIAL"); v != "" {
		return v
	}
	disk := sys
	if s.exists(sys + "/partition") {
		disk = path.Dir(sys)
	}
	if v := s.line(disk + "/serial"); v != "" {
		return v
	}
	if v := s.line(disk + "/device/serial"); v != "" {
		return v
	}
	// Vital product data, page 80h: four bytes, then the number.
	if page, err := s.read(disk + "/device/vpd_pg80"); err == nil && len(page) > 4 {
		return strings.TrimSpace(strings.TrimRight(page[4:min(len(page), 4+int(page[3]))], "\x00"))
	}
	return ""
}

// pciDrivers are the drivers whose devices have disks.
var pciDrivers = []string{"ata_piix", "sym53c8xx", "virtio-pci", "ahci", "nvme", "xhci_hcd", "ehci-pci"}

// pciAddress walks the bridges down to the controller that has a disk.
func (s *System) pciAddress(sys string, a *DiskAddress) bool {
	start := strings.Index(sys, "/devices/pci")
	parts := strings.Split(sys[start+1:], "/") // devices, pciDDDD:BB, D:B:S.F …
	prefix := sys[:start] + "/" + strings.Join(parts[:min(2, len(parts))], "/")
	for _, part := range parts[min(2, len(parts)):] {
		pci, ok := parsePCI(part)
		if !ok {
			return false
		}
		prefix += "/" + part
		driver := ""
		if link, err := s.real(prefix + "/driver"); err == nil {
			driver = path.Base(link)
		}
		if slices.Contains(pciDrivers, driver) {
			return s.controller(sys, driver, pci, a)
		}
	}
	return false
}

// parsePCI reads domain:bus:slot.function in base 16.
func parsePCI(text string) (PCIAddress, bool) {
	ok := true
	f := strings.FieldsFunc(text, func(r rune) bool { return r == ':' || r == '.' })
	if len(f) != 4 {
		return PCIAddress{}, false
	}
	n := hexes(&ok, f...)
	return PCIAddress{int64(n[0]), int64(n[1]), int64(n[2]), int64(n[3])}, ok
}

// scsiTarget finds the numbers of targetH:C:T/H:C:T:L in a path.
func scsiTarget(sys string) (channel, target, lun int64, ok bool) {
	_, rest, found := strings.Cut(sys, "/target")
	_, rest, found2 := strings.Cut(rest, "/")
	device, _, _ := strings.Cut(rest, "/")
	f := strings.Split(device, ":")
	if !found || !found2 || len(f) != 4 {
		return 0, 0, 0, false
	}
	ok = true
	n := parseAll(&ok, 10, f)
	return int64(n[1]), int64(n[2]), int64(n[3]), ok
}

// hostIndex returns which of a controller's hosts (or ATA ports) a disk is on.
func (s *System) hostIndex(sys string) (int64, bool) {
	kind := "ata"
	i := strings.Index(sys, "/ata")
	if i < 0 {
		kind = "host"
		if i = strings.Index(sys, "/host"); i < 0 {
			return 0, false
		}
	}
	number, _, _ := strings.Cut(sys[i+1+len(kind):], "/")
	entries, err := s.list(sys[:i])
	if err != nil {
		return 0, false
	}
	var hosts []int
	for _, e := range entries {
		if rest, ok := strings.CutPrefix(e.Name(), kind); ok {
			if n, err := strconv.Atoi(rest); err == nil {
				hosts = append(hosts, n)
			}
		}
	}
	slices.Sort(hosts)
	n, err := strconv.Atoi(number)
	index := slices.Index(hosts, n)
	return int64(index), err == nil && index >= 0
}

func (s *System) controller(sys, driver string, pci PCIAddress, a *DiskAddress) bool {
	_, target, lun, isSCSI := scsiTarget(sys)
	host, hasHost := s.hostIndex(sys)
	a.PCI = pci
	switch driver {
	case "ata_piix":
		if !hasHost || !isSCSI {
			return false
		}
		a.Bus, a.BusNo, a.Unit = busIDE, host, target
	case "sym53c8xx":
		if !isSCSI {
			return false
		}
		a.Bus, a.Unit = busSCSI, target
	case "virtio-pci":
		a.Bus = busVirtio
		if isSCSI {
			a.Bus, a.Unit = busSCSI, lun
		}
	case "ahci":
		if !hasHost || !isSCSI {
			return false
		}
		a.Bus, a.Unit = busSATA, host
	case "nvme":
		a.Bus = busNVMe
	default:
		a.Bus = busUSB
	}
	return true
}

// virtioAddress describes a disk of virtio over something else than PCI.
func virtioAddress(sys string, a *DiskAddress) bool {
	if !strings.Contains(sys, "/virtio") || !strings.Contains(sys, "/block") {
		return false
	}
	a.Bus = busVirtio
	if channel, target, lun, ok := scsiTarget(sys); ok {
		a.Bus, a.BusNo, a.Target, a.Unit = busSCSI, channel, target, lun
	}
	return true
}

// ccwAddress reads cssN/C.S.XXXX/C.S.DDDD in base 16.
func ccwAddress(sys string, a *DiskAddress) bool {
	_, rest, _ := strings.Cut(sys, "/devices/css")
	parts := strings.Split(rest, "/")
	if len(parts) < 3 {
		return false
	}
	sub, dev := strings.Split(parts[1], "."), strings.Split(parts[2], ".")
	if len(sub) != 3 || len(dev) != 3 {
		return false
	}
	ok := true
	n := hexes(&ok, sub[0], sub[1], sub[2], dev[2])
	if !ok {
		return false
	}
	a.CCW = &CCWAddress{int64(n[0]), int64(n[1]), int64(n[2]), int64(n[3])}
	virtioAddress(sys, a)
	return true
}
