//go:build windows

package windows

import (
	"unsafe"

	"golang.org/x/sys/windows"
)

// diskInterface is the class of the interfaces of disks.
var diskInterface = windows.GUID{Data1: 0x53f56307, Data2: 0xb6bf, Data3: 0x11d0, Data4: [8]byte{0x94, 0xf2, 0x00, 0xa0, 0xc9, 0x1e, 0xfb, 0x8b}}

// controllerOf returns the address of the PCI controller of the disk with a number.
func controllerOf(number uint32) PCIAddress {
	paths, err := windows.CM_Get_Device_Interface_List("", &diskInterface, windows.CM_GET_DEVICE_INTERFACE_LIST_PRESENT)
	if err != nil {
		return unknownPCI
	}
	for _, path := range paths {
		h, err := openDevice(path)
		if err != nil {
			continue
		}
		n, ok := deviceNumber(h)
		windows.CloseHandle(h)
		if ok && n == number {
			return controllerOfDevice(instanceOf(path))
		}
	}
	return unknownPCI
}

// deviceNumber returns the number of the disk of an open device or volume.
func deviceNumber(h windows.Handle) (uint32, bool) {
	// STORAGE_DEVICE_NUMBER: type, number and partition.
	data, err := query(h, ioctlStorageGetDeviceNumber, nil, 12)
	if err != nil || len(data) != 12 {
		return 0, false
	}
	return *(*uint32)(unsafe.Pointer(&data[4])), true
}

// controllerOfDevice returns the address of the parent of the device with an instance ID.
func controllerOfDevice(instance string) PCIAddress {
	manager := windows.NewLazySystemDLL("cfgmgr32.dll")
	locate, parent := manager.NewProc("CM_Locate_DevNodeW"), manager.NewProc("CM_Get_Parent")
	if locate.Find() != nil || parent.Find() != nil {
		return unknownPCI
	}
	name, err := windows.UTF16PtrFromString(instance)
	if err != nil {
		return unknownPCI
	}
	var device, controller uint32
	if r, _, _ := locate.Call(uintptr(unsafe.Pointer(&device)), uintptr(unsafe.Pointer(name)), 0); r != 0 {
		return unknownPCI
	}
	if r, _, _ := parent.Call(uintptr(unsafe.Pointer(&controller)), uintptr(device), 0); r != 0 {
		return unknownPCI
	}
	return pciAddress(func(property uint32) (uint32, bool) {
		get := manager.NewProc("CM_Get_DevNode_Registry_PropertyW")
		if get.Find() != nil {
			return 0, false
		}
		var value uint32
		size := uint32(unsafe.Sizeof(value))
		r, _, _ := get.Call(uintptr(controller), uintptr(property), 0, uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&size)), 0)
		return value, r == 0 && size == 4
	})
}
