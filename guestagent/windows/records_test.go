package windows

import (
	"encoding/binary"
	"fmt"
	"testing"
	"unicode/utf16"
)

// TestParseSession reads sessions with and without somebody logged in.
func TestParseSession(t *testing.T) {
	session := func(domain, user string, seconds uint64) []byte {
		data := make([]byte, sessionBytes)
		for at, text := range map[int]string{96: domain, 130: user} {
			for i, u := range utf16.Encode([]rune(text)) {
				binary.LittleEndian.PutUint16(data[at+2*i:], u)
			}
		}
		binary.LittleEndian.PutUint64(data[200:], 116_444_736_000_000_000+seconds*10_000_000)
		return data
	}
	users := []User{}
	for _, data := range [][]byte{session("D", "ü", 1_700_000_000), session("", "", 0), session("E", "ü", 5), session("D", "ü", 1_600_000_000), nil, make([]byte, 215)} {
		if u, ok := parseSession(data); ok {
			users = addLogin(users, u)
		}
	}
	if got := fmt.Sprint(users); got != "[{ü D 1.6e+09} {ü E 5}]" {
		t.Error(got)
	}
	full := session("D", "123456789012345678901", 0)
	if u, _ := parseSession(full); u.Name != "123456789012345678901" || u.Domain != "D" {
		t.Errorf("%v", u)
	}
}

// TestParseDescriptor reads descriptors, also ones that point outside themselves.
func TestParseDescriptor(t *testing.T) {
	descriptor := func(bus, serial uint32, rest string) []byte {
		data := make([]byte, 36)
		binary.LittleEndian.PutUint32(data[24:], serial)
		binary.LittleEndian.PutUint32(data[28:], bus)
		return append(data, rest...)
	}
	for _, c := range []struct {
		data        []byte
		bus, serial string
	}{
		{descriptor(17, 36, "  NV 1 \x00more"), "nvme", "NV 1"}, {descriptor(1, 0, "x"), "scsi", ""}, {descriptor(11, 38, "abSER"), "sata", "SER"},
		{descriptor(99, 0xFFFFFFFF, ""), "unknown", ""}, {descriptor(7, 36, ""), "usb", ""}, {nil, "unknown", ""}, {make([]byte, 31), "unknown", ""},
	} {
		if bus, serial := parseDescriptor(c.data); bus != c.bus || serial != c.serial {
			t.Errorf("%q: %s %q, want %s %q", c.data, bus, serial, c.bus, c.serial)
		}
	}
}
