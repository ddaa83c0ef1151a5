package windows

import (
	"regexp"
	"strconv"
	"strings"
)

// DeviceID is the number of a device among those of all makers.
type DeviceID struct {
	Type   string `qga:"type"`
	Vendor uint16 `qga:"vendor-id"`
	Device uint16 `qga:"device-id"`
}

// pciID are the numbers in a hardware ID of a PCI device of a virtual machine: those of
// virtio and QEMU, as with QEMU's agent, which leaves out numbers with digits above B.
var pciID = regexp.MustCompile(`^PCI\\VEN_(1AF4|1B36)&DEV_([0-9A-F]{4})(?:&|$)`)

// hardwareID returns the numbers of the first ID that has some, or nil.
func hardwareID(ids []string) *DeviceID {
	for _, s := range ids {
		m := pciID.FindStringSubmatch(s)
		if m == nil {
			continue
		}
		vendor, _ := strconv.ParseUint(m[1], 16, 16)
		device, _ := strconv.ParseUint(m[2], 16, 16)
		return &DeviceID{"pci", uint16(vendor), uint16(device)}
	}
	return nil
}

// trimError is what defrag.exe prints about an error, or why it did not run: it ends
// with 0 in any case, and has a code in the line that tells of an error.
func trimError(out string, err error) string {
	for line := range strings.SplitSeq(out, "\r\n") {
		if strings.Contains(line, "(0x") {
			return line
		}
	}
	if err != nil {
		return err.Error()
	}
	return ""
}
