package windows

import (
	"errors"
	"math"
	"testing"
)

func TestHardwareID(t *testing.T) {
	for _, c := range []struct {
		ids            []string
		vendor, device uint16
	}{
		{[]string{`ACPI\PNP0A03`, `PCI\VEN_1AF4&DEV_1041&SUBSYS_11001AF4&REV_01`}, 0x1af4, 0x1041},
		{[]string{`PCI\VEN_1B36&DEV_000D`}, 0x1b36, 0xd},
		{[]string{`PCI\VEN_8086&DEV_2922&SUBSYS_11001AF4`}, 0, 0},
		{[]string{`USB\PCI\VEN_1AF4&DEV_1041`, `PCI\VEN_1AF4&DEV_10410`, `PCI\VEN_1AF4`}, 0, 0},
		{nil, 0, 0},
	} {
		got := hardwareID(c.ids)
		if c.vendor == 0 {
			if got != nil {
				t.Errorf("%q: %v", c.ids, got)
			}
			continue
		}
		if got == nil || *got != (DeviceID{"pci", c.vendor, c.device}) {
			t.Errorf("%q: %v", c.ids, got)
		}
	}
}

func TestTrimError(t *testing.T) {
	const failed = "The operation is not supported. (0x8900002A)"
	for _, c := range []struct {
		out  string
		err  error
		want string
	}{
		{"Microsoft Drive Optimizer\r\n\r\n" + failed + "\r\nmore", nil, failed},
		{"The operation completed successfully.\r\n", nil, ""},
		{"", errors.New("not found"), "not found"},
	} {
		if got := trimError(c.out, c.err); got != c.want {
			t.Errorf("%q: %q", c.out, got)
		}
	}
}

func TestInstanceOf(t *testing.T) {
	const path = `\\?\scsi#disk&ven_qemu&prod_hard#4&1234&0&000000#{53f56307-b6bf-11d0-94f2-00a0c91efb8b}`
	if got := instanceOf(path); got != `scsi\disk&ven_qemu&prod_hard\4&1234&0&000000` {
		t.Error(got)
	}
}

func TestPCIAddress(t *testing.T) {
	for _, c := range []struct {
		properties map[uint32]uint32
		want       PCIAddress
	}{
		{map[uint32]uint32{propBusNumber: 2, propAddress: 5<<16 | 3, propUINumber: 7}, PCIAddress{0, 2, 7, 3}},
		{map[uint32]uint32{propBusNumber: 0, propAddress: 31<<16 | 2}, PCIAddress{0, 0, 31, 2}},
		{map[uint32]uint32{propBusNumber: 0, propAddress: 1<<32 - 1}, unknownPCI},
		{map[uint32]uint32{propAddress: 1 << 16}, unknownPCI},
		{map[uint32]uint32{propBusNumber: 1}, unknownPCI},
	} {
		got := pciAddress(func(p uint32) (uint32, bool) { v, ok := c.properties[p]; return v, ok })
		if got != c.want {
			t.Errorf("%v: %v, want %v", c.properties, got, c.want)
		}
	}
}

// TestAverages has four threads wait for a minute, and then none.
func TestAverages(t *testing.T) {
	var a averages
	for range 12 {
		a.add(4)
	}
	near := func(got, want float64) bool { return math.Abs(got-want) < 1e-9 }
	if !near(a.One, 4*(1-1/math.E)) || !near(a.Five, 4*(1-math.Exp(-1./5))) || !near(a.Fifteen, 4*(1-math.Exp(-1./15))) {
		t.Errorf("after a minute: %v", a)
	}
	one := a.One
	for range 24 {
		a.add(0)
	}
	if !near(a.One, one*math.Exp(-2)) {
		t.Errorf("two minutes later: %v", a)
	}
}
