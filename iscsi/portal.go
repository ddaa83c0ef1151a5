package iscsi

import (
	"strings"

	"github.com/cowl-disk/cowl/internal/message"
)

// ParsePortal reads iscsi://[user[%password]@]host[:port][/…], the name of a portal as
// libiscsi has it, into the address and the credentials, which are nil if no user is named.
func ParsePortal(url string) (address string, chap *Credentials, err error) {
	rest, ok := strings.CutPrefix(url, "iscsi://")
	rest, _, _ = strings.Cut(rest, "/")
	rest, _, _ = strings.Cut(rest, "?")
	at := strings.LastIndexByte(rest, '@')
	if at >= 0 {
		user, secret, _ := strings.Cut(rest[:at], "%")
		if user != "" {
			chap = &Credentials{User: user, Secret: secret}
		}
		rest = rest[at+1:]
	}
	if !ok || rest == "" {
		return "", nil, message.Errorf(nil, "the name of a portal is iscsi://[USER[%%PASSWORD]@]HOST[:PORT]")
	}
	return rest, chap, nil
}

// deviceTypes are the names that libiscsi has for types of units (SPC-4, 6.4.2).
var deviceTypes = map[byte]string{
	0x00: "DIRECT_ACCESS", 0x01: "SEQUENTIAL_ACCESS", 0x02: "PRINTER", 0x03: "PROCESSOR", 0x04: "WRITE_ONCE", 0x05: "MMC", 0x06: "SCANNER",
	0x07: "OPTICAL_MEMORY", 0x08: "MEDIA_CHANGER", 0x09: "COMMUNICATIONS", 0x0c: "STORAGE_ARRAY_CONTROLLER", 0x0d: "ENCLOSURE_SERVICES",
	0x0e: "SIMPLIFIED_DIRECT_ACCESS", 0x0f: "OPTICAL_CARD_READER", 0x10: "BRIDGE_CONTROLLER", 0x11: "OSD", 0x12: "AUTOMATION",
	0x13: "SEQURITY_MANAGER", 0x1e: "WELL_KNOWN_LUN", TypeNone: "NO_LUN",
}

// TypeName is the name of a type of units, as libiscsi has it.
func TypeName(t byte) string {
	if name := deviceTypes[t]; name != "" {
		return name
	}
	return "unknown"
}
