package fat

import (
	"encoding/binary"
	"time"
)

// PutCluster writes the first cluster into an entry.
func PutCluster(e []byte, c uint32) {
	binary.LittleEndian.PutUint16(e[20:], uint16(c>>16))
	binary.LittleEndian.PutUint16(e[26:], uint16(c))
}

// PutTimes writes one time as that of creation, access and change. FAT's times are of no
// time zone: that of t is used. They begin in 1980 and end in 2107.
func PutTimes(e []byte, t time.Time) {
	switch {
	case t.Year() < 1980:
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	case t.Year() > 2107:
		t = time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC)
	}
	day := uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day())
	clock := uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
	le := binary.LittleEndian
	le.PutUint16(e[14:], clock)
	le.PutUint16(e[16:], day)
	le.PutUint16(e[18:], day)
	le.PutUint16(e[22:], clock)
	le.PutUint16(e[24:], day)
}

// modified is the time of the last change in an entry, in the zone of the machine; the zero
// time if it says none.
func modified(e []byte) time.Time {
	day, clock := binary.LittleEndian.Uint16(e[24:]), binary.LittleEndian.Uint16(e[22:])
	month, d := time.Month(day>>5&15), int(day&31)
	if month < 1 || month > 12 || d < 1 {
		return time.Time{}
	}
	return time.Date(1980+int(day>>9), month, d, int(clock>>11), int(clock>>5&63), int(clock&31)*2, 0, time.Local)
}

// Rounded is a time as an entry can hold it.
func Rounded(t time.Time) time.Time {
	e := make([]byte, EntrySize)
	PutTimes(e, t.Local())
	return modified(e)
}
