package windows

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
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

// instanceOf returns the instance ID of the device with an interface, by the rule that
// the system makes the names of interfaces by.
func instanceOf(path string) string {
	s := strings.TrimPrefix(path, `\\?\`)
	if i := strings.LastIndex(s, "#{"); i >= 0 {
		s = s[:i]
	}
	return strings.ReplaceAll(s, "#", `\`)
}

// PCIAddress is the address of a controller; -1 where it is not known.
type PCIAddress struct {
	Domain   int64 `qga:"domain"`
	Bus      int64 `qga:"bus"`
	Slot     int64 `qga:"slot"`
	Function int64 `qga:"function"`
}

// Properties of a device, as the configuration manager numbers them.
const (
	propUINumber  = 0x11
	propBusNumber = 0x16
	propAddress   = 0x1D
)

// unknownPCI is the address of a controller that is none of PCI, or not known.
var unknownPCI = PCIAddress{-1, -1, -1, -1}

// pciAddress makes the address of a device from its properties. The slot is the number that
// the system shows to users, where it has one.
func pciAddress(property func(uint32) (uint32, bool)) PCIAddress {
	bus, ok := property(propBusNumber)
	address, known := property(propAddress)
	if !ok || !known || address == 1<<32-1 {
		return unknownPCI
	}
	slot := address >> 16
	if n, ok := property(propUINumber); ok {
		slot = n
	}
	return PCIAddress{0, int64(bus), int64(slot), int64(address & 0xFFFF)}
}

// Load is the reply of guest-get-load.
type Load struct {
	One     float64 `qga:"load1m"`
	Five    float64 `qga:"load5m"`
	Fifteen float64 `qga:"load15m"`
}

// loadInterval is how often the load is measured.
const loadInterval = 5 * time.Second

// averages are the load averages of the last 1, 5 and 15 minutes, as Unix has them.
type averages Load

// add takes the number of threads that wait, measured once in loadInterval.
func (a *averages) add(n float64) {
	for minutes, value := range map[float64]*float64{1: &a.One, 5: &a.Five, 15: &a.Fifteen} {
		decay := math.Exp(-loadInterval.Minutes() / minutes)
		*value = *value*decay + n*(1-decay)
	}
}
