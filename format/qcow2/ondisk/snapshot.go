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

const (
	snapshotFixed    = 40
	snapshotExtraMax = 24
	icountUnknown    = ^uint64(0)
)

// DecodeSnapshot reads the entry at the start of b and returns its length with
// padding.
func DecodeSnapshot(b []byte) (Snapshot, int, error) {
	if len(b) < snapshotFixed {
		return Snapshot{}, 0, ErrShort
	}
	be := binary.BigEndian
	s := Snapshot{
		L1TableOffset: be.Uint64(b), L1Size: be.Uint32(b[8:]),
		DateSec: be.Uint32(b[16:]), DateNsec: be.Uint32(b[20:]),
		VMClockNsec: be.Uint64(b[24:]), VMStateSize: uint64(be.Uint32(b[32:])),
	}
	idLen, nameLen, extraLen := int64(be.Uint16(b[12:])), int64(be.Uint16(b[14:])), int64(be.Uint32(b[36:]))
	total := snapshotFixed + extraLen + idLen + nameLen
	if total > int64(len(b)) {
		return Snapshot{}, 0, ErrShort
	}
	extra := b[snapshotFixed : snapshotFixed+extraLen]
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
	if extraLen > snapshotExtraMax {
		s.ExtraUnknown = append([]byte(nil), extra[snapshotExtraMax:]...)
	}
	rest := b[snapshotFixed+extraLen:]
	s.ID, s.Name = text(rest[:idLen]), text(rest[idLen:idLen+nameLen])
	return s, int(min(int64(len(b)), (total+7)&^7)), nil
}

// text returns what stands in b before a zero byte: to QEMU, what follows does not
// exist.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}
