package render

import (
	"encoding/binary"
	"os"
	"strings"
	"sync"
	"time"
)

// date is a time as tables show it, in the zone of the environment.
func date(sec int64) string {
	return time.Unix(sec, 0).In(zone()).Format("2006-01-02 15:04:05")
}

var zone = sync.OnceValue(func() *time.Location { return zoneOf(os.Getenv("TZ")) })

// zoneOf returns the zone that the environment variable TZ names: the file of a zone,
// or the rules of POSIX ("JST-9"), which package time reads in such files alone.
func zoneOf(tz string) *time.Location {
	if tz == "" || strings.HasPrefix(tz, ":") {
		return time.Local
	}
	if l, err := time.LoadLocation(tz); err == nil {
		return l
	}
	if l := posixZone(tz); l != nil {
		return l
	}
	return time.Local
}

// posixZone makes a zone from the rules of POSIX, nil if they are none. For this it
// makes the file (RFC 9636) of a zone without transitions, whose footer says what holds
// at all times.
func posixZone(rules string) *time.Location {
	if strings.ContainsAny(rules, "\n\x00") {
		return nil
	}
	const header = 44
	var b []byte
	for range 2 { // the block of version 1, and that of version 2
		h := make([]byte, header)
		copy(h, "TZif2")
		binary.BigEndian.PutUint32(h[36:], 1) // local time types
		binary.BigEndian.PutUint32(h[40:], 4) // characters of abbreviations
		b = append(b, h...)
		b = append(b, make([]byte, 6)...) // UTC
		b = append(b, "UTC\x00"...)
	}
	b = append(b, "\n"+rules+"\n"...)
	l, err := time.LoadLocationFromTZData(rules, b)
	if err != nil {
		return nil
	}
	return l
}
