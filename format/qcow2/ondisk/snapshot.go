package ondisk

import (
	"bytes"
	"encoding/binary"
)

// Snapshot is an entry of the snapshot table (section "Snapshots").
type Snapshot struct {
	L1TableOffset uint64
	L1Size        uint32 // entries
	ID, Name      string
	DateSec       uint32
	DateNsec      uint32
	VMClockNsec   uint64
	VMStateSize   uint64
	DiskSize      uint64 // bytes; valid if HasDiskSize
	HasDiskSize   bool
	Icount        uint64 // valid if HasIcount
	HasIcount     bool
	// ExtraUnknown is extra data beyond what is known, kept as it is.
	ExtraUnknown []byte
}

// Lengths of the parts of an entry, in bytes.
const (
	SnapshotFixedSize  = 40
	SnapshotExtraKnown = 24 // extra data that has a meaning
)

const icountUnknown = ^uint64(0)

// DecodeSnapshot reads the entry at the start of b and returns its length with
// padding.
func DecodeSnapshot(b []byte) (Snapshot, int, error) {
	if len(b) < SnapshotFixedSize {
		return Snapshot{}, 0, ErrShort
	}
	be := binary.BigEndian
	s := Snapshot{
		L1TableOffset: be.Uint64(b), L1Size: be.Uint32(b[8:]),
		DateSec: be.Uint32(b[16:]), DateNsec: be.Uint32(b[20:]),
		VMClockNsec: be.Uint64(b[24:]), VMStateSize: uint64(be.Uint32(b[32:])),
	}
	idLen, nameLen, extraLen := int64(be.Uint16(b[12:])), int64(be.Uint16(b[14:])), int64(be.Uint32(b[36:]))
	total := SnapshotFixedSize + extraLen + idLen + nameLen
	if total > int64(len(b)) {
		return Snapshot{}, 0, ErrShort
	}
	extra := b[SnapshotFixedSize : SnapshotFixedSize+extraLen]
	if extraLen >= 8 {
		s.VMStateSize = be.Uint64(extra)
	}
	if extraLen >= 16 {
		s.DiskSize, s.HasDiskSize = be.Uint64(extra[8:]), true
	}
	if extraLen >= 24 {
		if v := be.Uint64(extra[16:]); v != icountUnknown {
			s.Icount, s.HasIcount = v, true
		}
	}
	if extraLen > SnapshotExtraKnown {
		s.ExtraUnknown = append([]byte(nil), extra[SnapshotExtraKnown:]...)
	}
	rest := b[SnapshotFixedSize+extraLen:]
	s.ID, s.Name = text(rest[:idLen]), text(rest[idLen:idLen+nameLen])
	return s, int(min(int64(len(b)), (total+7)&^7)), nil
}

// Append appends the entry with all the extra data that is known. diskSize is the
// size of the disk, in bytes, where the entry does not have it.
func (s *Snapshot) Append(b []byte, diskSize uint64) []byte {
	be := binary.BigEndian
	if s.HasDiskSize {
		diskSize = s.DiskSize
	}
	small := s.VMStateSize
	if small > 1<<32-1 {
		small = 0
	}
	icount := icountUnknown
	if s.HasIcount {
		icount = s.Icount
	}
	b = be.AppendUint64(b, s.L1TableOffset)
	b = be.AppendUint32(b, s.L1Size)
	b = be.AppendUint16(b, uint16(len(s.ID)))
	b = be.AppendUint16(b, uint16(len(s.Name)))
	b = be.AppendUint32(b, s.DateSec)
	b = be.AppendUint32(b, s.DateNsec)
	b = be.AppendUint64(b, s.VMClockNsec)
	b = be.AppendUint32(b, uint32(small))
	b = be.AppendUint32(b, uint32(SnapshotExtraKnown+len(s.ExtraUnknown)))
	b = be.AppendUint64(b, s.VMStateSize)
	b = be.AppendUint64(b, diskSize)
	b = be.AppendUint64(b, icount)
	b = append(b, s.ExtraUnknown...)
	b = append(b, s.ID...)
	b = append(b, s.Name...)
	return append(b, make([]byte, -len(b)&7)...)
}

// text returns the bytes of b before a zero byte: for QEMU, what follows does not
// exist.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}
