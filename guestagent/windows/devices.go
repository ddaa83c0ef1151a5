//go:build windows

package windows

import (
	"context"
	"errors"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/cowl-disk/cowl/guestagent"
)

// Device is a PCI device with its driver, in the reply of guest-get-devices.
type Device struct {
	Driver  string    `qga:"driver-name"`
	Date    *int64    `qga:"driver-date,optional"` // nanoseconds since 1970
	Version *string   `qga:"driver-version,optional"`
	ID      *DeviceID `qga:"id,optional"`
}

// The keys of the properties.
var (
	keyName    = windows.DEVPROPKEY{FmtID: windows.DEVPROPGUID{Data1: 0xb725f130, Data2: 0x47ef, Data3: 0x101a, Data4: [8]byte{0xa5, 0xf1, 0x02, 0x60, 0x8c, 0x9e, 0xeb, 0xac}}, PID: 10}
	driverKeys = windows.DEVPROPGUID{Data1: 0xa8b865dd, Data2: 0x2e3d, Data3: 0x4094, Data4: [8]byte{0xad, 0x97, 0xe5, 0x93, 0xa7, 0x0c, 0x75, 0xd6}}
)

func devices(context.Context, guestagent.None) ([]Device, error) {
	set, err := windows.SetupDiGetClassDevsEx(nil, "", 0, windows.DIGCF_PRESENT|windows.DIGCF_ALLCLASSES, 0, "")
	if err != nil {
		return nil, errors.New("failed to get device tree")
	}
	defer set.Close()
	found := []Device{}
	for i := 0; ; i++ {
		info, err := set.EnumDeviceInfo(i)
		if errors.Is(err, windows.ERROR_NO_MORE_ITEMS) {
			return found, nil
		}
		if err != nil {
			continue
		}
		if d, ok := device(set, info); ok {
			found = append(found, d)
		}
	}
}

// device describes a device if it is one with a PCI number and a driver.
func device(set windows.DevInfo, info *windows.DevInfoData) (Device, bool) {
	name, err := windows.SetupDiGetDeviceProperty(set, info, &keyName)
	text, ok := name.(string)
	if err != nil || !ok {
		return Device{}, false
	}
	ids, err := set.DeviceRegistryProperty(info, windows.SPDRP_HARDWAREID)
	hardware, ok := ids.([]string)
	if err != nil || !ok {
		return Device{}, false
	}
	id := hardwareID(hardware)
	if id == nil {
		return Device{}, false
	}
	version, err := windows.SetupDiGetDeviceProperty(set, info, &windows.DEVPROPKEY{FmtID: driverKeys, PID: 3})
	v, ok := version.(string)
	if err != nil || !ok {
		return Device{}, false
	}
	date, ok := driverDate(set, info)
	if !ok {
		return Device{}, false
	}
	return Device{Driver: text, Date: &date, Version: &v, ID: id}, true
}

// driverDate returns when the driver was made, in nanoseconds since 1970.
func driverDate(set windows.DevInfo, info *windows.DevInfoData) (int64, bool) {
	get := windows.NewLazySystemDLL("setupapi.dll").NewProc("SetupDiGetDevicePropertyW")
	if get.Find() != nil {
		return 0, false
	}
	key := windows.DEVPROPKEY{FmtID: driverKeys, PID: 2}
	var kind windows.DEVPROPTYPE
	var time windows.Filetime
	var size uint32
	ok, _, _ := get.Call(uintptr(set), uintptr(unsafe.Pointer(info)), uintptr(unsafe.Pointer(&key)), uintptr(unsafe.Pointer(&kind)),
		uintptr(unsafe.Pointer(&time)), unsafe.Sizeof(time), uintptr(unsafe.Pointer(&size)), 0)
	if ok == 0 || kind != windows.DEVPROP_TYPE_FILETIME {
		return 0, false
	}
	return time.Nanoseconds(), true
}
