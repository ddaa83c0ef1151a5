package link

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The bytes of reads and writes go through memory that both programs have mapped: SlotCount slots
// of SlotSize bytes each. What is in a slot belongs to cowl-native from the request that names it to
// the answer that does, and to cowl else. The size of the memory is sealed: neither program can take it
// from under the other. The third socket carries a SlotRequest and a SlotReply for each.
const (
	// SlotsFD and MemoryFD are the numbers of the socket and of the memory in cowl-native.
	SlotsFD, MemoryFD = 5, 6

	SlotSize  = 1 << 20
	SlotCount = 24
)

// What a SlotRequest asks for.
const (
	SlotRead  = 1
	SlotWrite = 2
)

// SlotRequest asks to fill a slot from the disk, or to write what is in it.
type SlotRequest struct {
	Op     uint32 // SlotRead or SlotWrite
	Slot   uint32
	Length uint32 // in bytes, at most SlotSize
	Offset uint64 // on the disk
}

// SlotReply answers the request that names the same slot.
type SlotReply struct {
	Slot  uint32
	Errno uint32 // 0: it is done
}

const slotRequestSize, slotReplySize = 24, 8

// Append appends the bytes of the request to b.
func (r *SlotRequest) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, r.Op)
	b = binary.LittleEndian.AppendUint32(b, r.Slot)
	b = binary.LittleEndian.AppendUint32(b, r.Length)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint64(b, r.Offset)
}

// Receive reads a request and checks that it is about a slot, and not longer.
func (r *SlotRequest) Receive(from io.Reader) error {
	var b [slotRequestSize]byte
	if _, err := io.ReadFull(from, b[:]); err != nil {
		return err
	}
	*r = SlotRequest{Op: binary.LittleEndian.Uint32(b[:]), Slot: binary.LittleEndian.Uint32(b[4:]),
		Length: binary.LittleEndian.Uint32(b[8:]), Offset: binary.LittleEndian.Uint64(b[16:])}
	if r.Op != SlotRead && r.Op != SlotWrite || r.Slot >= SlotCount || r.Length > SlotSize || r.Offset > uint64(Size) {
		return fmt.Errorf("request %d about slot %d of %d bytes at offset %d", r.Op, r.Slot, r.Length, r.Offset)
	}
	return nil
}

// Append appends the bytes of the reply to b.
func (r *SlotReply) Append(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, r.Slot), r.Errno)
}

// Receive reads a reply and checks that it is about a slot.
func (r *SlotReply) Receive(from io.Reader) error {
	var b [slotReplySize]byte
	if _, err := io.ReadFull(from, b[:]); err != nil {
		return err
	}
	*r = SlotReply{Slot: binary.LittleEndian.Uint32(b[:]), Errno: binary.LittleEndian.Uint32(b[4:])}
	if r.Slot >= SlotCount || r.Errno > maxErrno {
		return fmt.Errorf("an answer about slot %d with error %d", r.Slot, r.Errno)
	}
	return nil
}

// maxErrno is the largest number of an error that Linux has.
const maxErrno = 4095
