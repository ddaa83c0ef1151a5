package windows

import (
	"errors"
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
