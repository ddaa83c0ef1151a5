package windows

import (
	"bytes"
	"encoding/binary"
	"strings"
	"unicode/utf16"
)

// User is somebody who is logged in.
type User struct {
	Name   string  `qga:"user"`
	Domain string  `qga:"domain"`
	Login  float64 `qga:"login-time"` // seconds since 1970
}

// Fields of WTSINFOW, which describes a session.
const (
	sessionDomain     = 96
	sessionDomainLen  = 17
	sessionUser       = 130
	sessionUserLen    = 21
	sessionLogin      = 200
	sessionBytes      = 216
	ticksPerSecond    = 10_000_000
	ticksFrom1601     = 116_444_736_000_000_000 // to 1970
	descriptorSerial  = 24
	descriptorBusType = 28
)

// parseSession reads who is logged in at a session; false if it is nobody.
func parseSession(data []byte) (User, bool) {
	if len(data) < sessionBytes {
		return User{}, false
	}
	u := User{
		Name:   wide(data[sessionUser : sessionUser+2*sessionUserLen]),
		Domain: wide(data[sessionDomain : sessionDomain+2*sessionDomainLen]),
	}
	ticks := int64(binary.LittleEndian.Uint64(data[sessionLogin:]))
	u.Login = float64(ticks-ticksFrom1601) / ticksPerSecond
	return u, u.Name != ""
}

// wide reads a string of UTF-16 up to its NUL.
func wide(data []byte) string {
	var units []uint16
	for ; len(data) >= 2; data = data[2:] {
		u := binary.LittleEndian.Uint16(data)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// addLogin adds a login: each user is listed once, with the earliest.
func addLogin(users []User, u User) []User {
	for i := range users {
		if have := &users[i]; have.Name == u.Name && have.Domain == u.Domain {
			have.Login = min(have.Login, u.Login)
			return users
		}
	}
	return append(users, u)
}

// busTypes are the words for STORAGE_BUS_TYPE.
var busTypes = []string{"unknown", "scsi", "ide", "ide", "ieee1394", "ssa", "fibre", "usb", "raid", "iscsi", "sas", "sata", "sd", "mmc",
	"virtual", "file-backed-virtual", "unknown", "nvme"}

// parseDescriptor reads the bus and the serial number out of a
// STORAGE_DEVICE_DESCRIPTOR.
func parseDescriptor(data []byte) (bus, serial string) {
	bus = "unknown"
	if len(data) < descriptorBusType+4 {
		return bus, ""
	}
	if n := binary.LittleEndian.Uint32(data[descriptorBusType:]); n < uint32(len(busTypes)) {
		bus = busTypes[n]
	}
	// 0 and -1 say that there is none.
	if at := binary.LittleEndian.Uint32(data[descriptorSerial:]); at != 0 && at < uint32(len(data)) {
		text, _, _ := bytes.Cut(data[at:], []byte{0})
		serial = strings.TrimSpace(string(text))
	}
	return bus, serial
}
