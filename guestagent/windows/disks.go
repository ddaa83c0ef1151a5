//go:build windows

package windows

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/windows"

	"github.com/cowl-disk/cowl/guestagent"
)

// FileSystem is a file system in the reply of guest-get-fsinfo.
type FileSystem struct {
	Name       string        `qga:"name"`
	Mountpoint string        `qga:"mountpoint"`
	Type       string        `qga:"type"`
	Used       *uint64       `qga:"used-bytes,optional"`
	Total      *uint64       `qga:"total-bytes,optional"`
	Disks      []DiskAddress `qga:"disk"`
}

// Disk is a disk in the reply of guest-get-disks.
type Disk struct {
	Name      string       `qga:"name"`
	Partition bool         `qga:"partition"`
	Address   *DiskAddress `qga:"address,optional"`
}

// DiskAddress is where a disk is.
type DiskAddress struct {
	PCI    PCIAddress `qga:"pci-controller"`
	Bus    string     `qga:"bus-type"`
	BusNo  int64      `qga:"bus"`
	Target int64      `qga:"target"`
	Unit   int64      `qga:"unit"`
	Serial *string    `qga:"serial,optional"`
	Device *string    `qga:"dev,optional"`
}

// Requests to a device.
const (
	ioctlStorageQueryProperty   = 0x2D1400
	ioctlStorageGetDeviceNumber = 0x2D1080
	ioctlScsiGetAddress         = 0x41018
)

// maxDisks bounds the numbers of disks that are tried, which can have gaps.
const maxDisks = 256

// openDevice opens a device to ask about it, for which no access is needed.
func openDevice(path string) (windows.Handle, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0, err
	}
	return windows.CreateFile(name, 0, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, nil, windows.OPEN_EXISTING, 0, 0)
}

// query sends a request to a device and returns what it answers, of at most size bytes.
func query(h windows.Handle, request uint32, in []byte, size int) ([]byte, error) {
	out := make([]byte, size)
	var p *byte
	if len(in) > 0 {
		p = &in[0]
	}
	var n uint32
	if err := windows.DeviceIoControl(h, request, p, uint32(len(in)), &out[0], uint32(size), &n, nil); err != nil {
		return nil, err
	}
	return out[:n], nil
}

// describe says where the disk of a device is. What the device does not tell is left
// out.
func describe(h windows.Handle) DiskAddress {
	a := DiskAddress{PCI: unknownPCI}
	// STORAGE_PROPERTY_QUERY of zeroes asks for the descriptor of the device.
	data, _ := query(h, ioctlStorageQueryProperty, make([]byte, 12), 4096)
	bus, serial := parseDescriptor(data)
	a.Bus = bus
	if serial != "" {
		a.Serial = &serial
	}
	if number, ok := deviceNumber(h); ok {
		dev := fmt.Sprintf(`\\.\PhysicalDrive%d`, number)
		a.Device = &dev
		if bus != "usb" {
			a.PCI = controllerOf(number)
		}
	}
	// SCSI_ADDRESS: length, port, path, target and unit.
	if data, err := query(h, ioctlScsiGetAddress, nil, 8); err == nil && len(data) == 8 {
		a.BusNo, a.Target, a.Unit = int64(data[5]), int64(data[6]), int64(data[7])
	}
	return a
}

func disks(context.Context, guestagent.None) ([]Disk, error) {
	list := []Disk{}
	for i := range maxDisks {
		name := fmt.Sprintf(`\\.\PhysicalDrive%d`, i)
		h, err := openDevice(name)
		if errors.Is(err, windows.ERROR_FILE_NOT_FOUND) {
			continue
		}
		d := Disk{Name: name}
		if err == nil {
			a := describe(h)
			d.Address = &a
			windows.CloseHandle(h)
		}
		list = append(list, d)
	}
	return list, nil
}

// fsinfo describes the volumes. What cannot be found out about one is left out.
func fsinfo(context.Context, guestagent.None) ([]FileSystem, error) {
	names, err := volumes()
	if err != nil {
		return nil, err
	}
	list := []FileSystem{}
	for _, name := range names {
		list = append(list, volume(name))
	}
	return list, nil
}

// volumes returns the names of all volumes, which end with a backslash.
func volumes() ([]string, error) {
	var name [windows.MAX_PATH + 1]uint16
	h, err := windows.FindFirstVolume(&name[0], uint32(len(name)))
	if err != nil {
		return nil, fmt.Errorf("failed to find any volume: %w", err)
	}
	defer windows.FindVolumeClose(h)
	var list []string
	for {
		list = append(list, windows.UTF16ToString(name[:]))
		if err := windows.FindNextVolume(h, &name[0], uint32(len(name))); err != nil {
			if errors.Is(err, windows.ERROR_NO_MORE_FILES) {
				return list, nil
			}
			return nil, fmt.Errorf("failed to find the next volume: %w", err)
		}
	}
}

// mountedAt returns the first path of a volume, "" if it has none.
func mountedAt(volume *uint16) string {
	paths := make([]uint16, 4096)
	var n uint32
	if windows.GetVolumePathNamesForVolumeName(volume, &paths[0], uint32(len(paths)), &n) != nil {
		return ""
	}
	return windows.UTF16ToString(paths)
}

// volume describes a volume, whose name ends with a backslash.
func volume(name string) FileSystem {
	f := FileSystem{Name: name, Mountpoint: "System Reserved", Disks: []DiskAddress{}}
	wide, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return f
	}
	if first := mountedAt(wide); first != "" {
		f.Mountpoint = first
		var available, total, free uint64
		if windows.GetDiskFreeSpaceEx(wide, &available, &total, &free) == nil {
			used := total - free
			f.Used, f.Total = &used, &total
		}
	}
	var kind [windows.MAX_PATH + 1]uint16
	if windows.GetVolumeInformation(wide, nil, 0, nil, nil, nil, &kind[0], uint32(len(kind))) == nil {
		f.Type = windows.UTF16ToString(kind[:])
	}
	if h, err := openDevice(name[:len(name)-1]); err == nil {
		f.Disks = append(f.Disks, describe(h))
		windows.CloseHandle(h)
	}
	return f
}
