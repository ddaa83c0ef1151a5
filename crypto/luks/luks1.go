package luks

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/cowl-disk/cowl/crypto/sector"
)

// The header of version 1 (specification 1.2.3, section 2.3 and figure 2), big
// endian.
const (
	headerSize1 = slotTable1 + slotCount1*slotSize1

	cipherName1  = 8 // 32 bytes
	cipherMode1  = 40
	hashSpec1    = 72
	payload1     = 104 // sectors
	keyBytes1    = 108
	digest1      = 112 // 20 bytes
	digestSalt1  = 132 // 32 bytes
	digestIters1 = 164
	uuid1        = 168 // 40 bytes
	slotTable1   = 208

	slotCount1 = 8
	slotSize1  = 48
	slotOn1    = 0x00ac71f3
	slotOff1   = 0x0000dead

	nameSize1   = 32
	digestSize1 = 20
	saltSize    = 32
	stripes1    = 4000

	// Key slots begin at a multiple of this, after the header.
	slotAlign1 = 4096
)

// luks1 is a header of version 1.
type luks1 struct {
	cipher, mode, hash string
	payload            uint32 // sectors
	keyBytes           uint32
	digest             [digestSize1]byte
	digestSalt         [saltSize]byte
	digestIters        uint32
	uuid               string
	slots              [slotCount1]slot1
}

type slot1 struct {
	state, iters uint32
	salt         [saltSize]byte
	offset       uint32 // sectors
	stripes      uint32
}

func (s *slot1) active() bool { return s.state == slotOn1 }

// text returns the bytes before the first NUL; ok says whether there is one.
func text(b []byte) (s string, ok bool) {
	head, _, ok := bytes.Cut(b, []byte{0})
	return string(head), ok
}

// decode1 reads headerSize1 bytes, whose magic and version are known, and refuses
// what the fields cannot be.
func decode1(b []byte, detached bool) (*luks1, error) {
	be := binary.BigEndian
	h := &luks1{payload: be.Uint32(b[payload1:]), keyBytes: be.Uint32(b[keyBytes1:]), digestIters: be.Uint32(b[digestIters1:])}
	for _, f := range []struct {
		into *string
		off  int
		what string
	}{{&h.cipher, cipherName1, "cipher name"}, {&h.mode, cipherMode1, "cipher mode"}, {&h.hash, hashSpec1, "hash spec"}} {
		var ok bool
		if *f.into, ok = text(b[f.off : f.off+nameSize1]); !ok {
			return nil, errorf(ErrCorrupt, "LUKS header %s is not NUL terminated", f.what)
		}
	}
	h.uuid, _ = text(b[uuid1:slotTable1])
	h.uuid = strings.ToValidUTF8(h.uuid, "?")
	copy(h.digest[:], b[digest1:])
	copy(h.digestSalt[:], b[digestSalt1:])
	for i := range h.slots {
		h.slots[i] = decodeSlot1(b[slotTable1+i*slotSize1:])
	}
	return h, h.check(detached)
}

func decodeSlot1(b []byte) slot1 {
	be := binary.BigEndian
	s := slot1{state: be.Uint32(b), iters: be.Uint32(b[4:]), offset: be.Uint32(b[40:]), stripes: be.Uint32(b[44:])}
	copy(s.salt[:], b[8:])
	return s
}

func (s *slot1) encode() []byte {
	be := binary.BigEndian
	b := be.AppendUint32(make([]byte, 0, slotSize1), s.state)
	b = be.AppendUint32(b, s.iters)
	b = append(b, s.salt[:]...)
	b = be.AppendUint32(b, s.offset)
	return be.AppendUint32(b, s.stripes)
}

func (h *luks1) encode() []byte {
	be := binary.BigEndian
	b := make([]byte, headerSize1)
	copy(b, magic)
	b[7] = 1
	copy(b[cipherName1:], h.cipher)
	copy(b[cipherMode1:], h.mode)
	copy(b[hashSpec1:], h.hash)
	be.PutUint32(b[payload1:], h.payload)
	be.PutUint32(b[keyBytes1:], h.keyBytes)
	copy(b[digest1:], h.digest[:])
	copy(b[digestSalt1:], h.digestSalt[:])
	be.PutUint32(b[digestIters1:], h.digestIters)
	copy(b[uuid1:], h.uuid)
	for i := range h.slots {
		copy(b[slotTable1+i*slotSize1:], h.slots[i].encode())
	}
	return b
}

// check refuses slots that overlap anything. Nothing overflows: a slot has less
// than 2^32 bytes by the check of the stripes.
func (h *luks1) check(detached bool) error {
	const first = slotAlign1 / sectorSize
	corrupt := func(format string, args ...any) error { return errorf(ErrCorrupt, format, args...) }
	if !detached && h.payload < first {
		return corrupt("LUKS payload is overlapping with the header")
	}
	if h.digestIters == 0 {
		return corrupt("LUKS key iteration count is zero")
	}
	size := h.slotSectors()
	for i := range h.slots {
		s := &h.slots[i]
		begin := int64(s.offset)
		switch {
		case s.stripes != stripes1:
			return corrupt("keyslot %d is corrupted (stripes %d != %d)", i, int32(s.stripes), stripes1)
		case s.state != slotOn1 && s.state != slotOff1:
			return corrupt("keyslot %d state (active/disable) is corrupted", i)
		case s.active() && s.iters == 0:
			return corrupt("keyslot %d iteration count is zero", i)
		case begin < first:
			return corrupt("keyslot %d is overlapping with the LUKS header", i)
		case !detached && begin+size > int64(h.payload):
			return corrupt("keyslot %d is overlapping with the encrypted payload", i)
		}
		for j := i + 1; j < slotCount1; j++ {
			other := int64(h.slots[j].offset)
			if begin < other+size && other < begin+size {
				return corrupt("keyslots %d and %d are overlapping in the header", i, j)
			}
		}
	}
	return nil
}

// slotSectors is how many sectors the key material of a slot takes.
func (h *luks1) slotSectors() int64 {
	return (int64(h.keyBytes)*stripes1 + sectorSize - 1) / sectorSize
}

// open1 makes a Header of a header of version 1.
func open1(area Area, areaSize int64, b []byte, o OpenOptions) (*Header, error) {
	h1, err := decode1(b, o.Detached)
	if err != nil {
		return nil, err
	}
	spec, err := parseSpec1(h1.cipher, h1.mode, int(h1.keyBytes))
	if err != nil {
		return nil, err
	}
	if !contains(hashNames, h1.hash) {
		return nil, errorf(ErrUnsupported, "hash algorithm '%s' not supported", h1.hash)
	}
	return newHeader1(area, areaSize, h1, spec), nil
}

func newHeader1(area Area, areaSize int64, h1 *luks1, spec sector.Spec) *Header {
	return &Header{Version: 1, UUID: h1.uuid, Spec: spec, KeyBytes: int(h1.keyBytes),
		PayloadOffset: int64(h1.payload) * sectorSize, PayloadSize: -1, SectorSize: sectorSize,
		area: area, areaSize: areaSize, v1: h1}
}
