package iscsi

import (
	"context"
	"encoding/binary"
)

// Command is a SCSI command.
type Command struct {
	LUN uint64   // in the form of the wire: see EncodeLUN
	CDB [16]byte // command descriptor block, with zeroes behind it
	In  []byte   // where data from the target goes; nil: none comes
	Out []byte   // data for the target; not both
	// N is how many bytes of In the target filled.
	N int

	probe bool // a question of ours whether other commands are gone
}

// Doer does commands. Do returns nil for a command with the status GOOD, a *SenseError or
// a *StatusError for one that failed, and after a bounded number of tries for one that the
// target could not take. The buffers belong to Do until it returns.
type Doer interface {
	Do(ctx context.Context, cmd *Command) error
}

// EncodeLUN makes the form of the wire of a number (SAM-5, 4.7): below 256 as a
// peripheral device, below 16384 as flat space, below 2^24 as extended flat space.
func EncodeLUN(number uint32) uint64 {
	var b [8]byte
	switch {
	case number < 1<<8:
		b[1] = byte(number)
	case number < 1<<14:
		binary.BigEndian.PutUint16(b[:], 1<<14|uint16(number))
	default:
		binary.BigEndian.PutUint32(b[:], 0xd2<<24|number&(1<<24-1))
	}
	return binary.BigEndian.Uint64(b[:])
}

// MaxLUN is the highest number of a logical unit.
const MaxLUN = 1<<24 - 1

// DecodeLUN returns the number of a logical unit, false if it is of no form of EncodeLUN.
func DecodeLUN(lun uint64) (number uint32, ok bool) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], lun)
	switch {
	case b[0] == 0:
		return uint32(b[1]), true
	case b[0]>>6 == 1:
		return uint32(binary.BigEndian.Uint16(b[:]) &^ (1 << 14)), true
	case b[0] == 0xd2:
		return binary.BigEndian.Uint32(b[:]) & MaxLUN, true
	}
	return 0, false
}
