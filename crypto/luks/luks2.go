package luks

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/crypto/sector"
	"github.com/cowl-disk/cowl/internal/message"
)

// The binary header of version 2 (specification 1.1.1, section 2.1), big endian. Two
// copies exist, each followed by its JSON text; both together have a power of two of
// bytes.
const (
	binarySize2 = 4096

	headerLen2 = 8  // u64
	seqID2     = 16 // u64
	label2     = 24 // 48 bytes
	checksum2  = 72 // 32 bytes: name of a hash
	uuid2      = 168
	uuidLen2   = 40
	labelLen2  = 48
	sumNameLen = 32
	offset2    = 256 // u64: of this header
	sum2       = 448 // 64 bytes
	sumLen2    = 64

	minHeader2 = 16 << 10
	maxHeader2 = 4 << 20
)

// luks2 is a header of version 2 whose text was checked, for one segment and one
// digest.
type luks2 struct {
	label   string
	slots   []slot2 // in the order in which they are tried
	digest  digest2
	segment segment2

	copy *headerCopy // what was read; changes begin with it
}

// open2 reads the copies of the header and takes the valid one with the higher
// sequence number.
func open2(ctx context.Context, area Area, areaSize int64, o OpenOptions) (*Header, error) {
	first, err := read2(ctx, area, areaSize, 0)
	best := first
	if second := readSecondary2(ctx, area, areaSize, first); second != nil && (best == nil || second.seqID > best.seqID) {
		best = second
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if best == nil {
		return nil, err
	}
	h2, err := parse2(best.text)
	if err != nil {
		return nil, err
	}
	h2.label, h2.copy = best.label, best
	spec, err := parseSpec2(h2.segment.encryption)
	if err != nil {
		return nil, err
	}
	h := &Header{Version: 2, UUID: best.uuid, Spec: spec, KeyBytes: h2.keyBytes(), PayloadOffset: h2.segment.offset,
		PayloadSize: h2.segment.size, SectorSize: h2.segment.sectorSize, IVOffset: h2.segment.ivTweak,
		area: area, areaSize: areaSize, v2: h2}
	return h, h2.check(2*best.size, h.PayloadOffset, o.Detached)
}

// headerCopy is one valid copy of the header.
type headerCopy struct {
	size        int64
	seqID       uint64
	label, uuid string
	binary      []byte // without its checksum
	text        []byte
}

// readSecondary2 looks for the second copy: it follows the first, or, if that is
// damaged, is at one of the offsets that the specification allows.
func readSecondary2(ctx context.Context, area Area, areaSize int64, first *headerCopy) *headerCopy {
	if first != nil {
		c, _ := read2(ctx, area, areaSize, first.size)
		return c
	}
	for off := int64(minHeader2); off <= maxHeader2 && ctx.Err() == nil; off *= 2 {
		if c, _ := read2(ctx, area, areaSize, off); c != nil {
			return c
		}
	}
	return nil
}

// read2 reads the copy at off, which is 0 or the size of the header.
func read2(ctx context.Context, area Area, areaSize, off int64) (*headerCopy, error) {
	corrupt := func(format string, args ...any) (*headerCopy, error) { return nil, errorf(ErrCorrupt, format, args...) }
	if off > areaSize-binarySize2 {
		return corrupt("LUKS2 header is cut short")
	}
	b := make([]byte, binarySize2)
	if err := readFull(ctx, area, b, off); err != nil {
		return nil, message.Errorf(nil, "could not read encryption header: %w", err)
	}
	want := magic
	if off > 0 {
		want = secondaryMagic
	}
	be := binary.BigEndian
	size := be.Uint64(b[headerLen2:])
	switch {
	case string(b[:6]) != want || b[6] != 0 || b[7] != 2:
		return corrupt("LUKS2 header at %d is damaged", off)
	case be.Uint64(b[offset2:]) != uint64(off):
		return corrupt("LUKS2 header at %d says that it lies elsewhere", off)
	case size < minHeader2 || size > maxHeader2 || size&(size-1) != 0 || off > 0 && size != uint64(off):
		return corrupt("LUKS2 header size %d is impossible", size)
	case int64(size) > areaSize-off:
		return corrupt("LUKS2 header is cut short")
	}
	name, _ := text(b[checksum2 : checksum2+sumNameLen])
	newHash, err := sector.Hash(name)
	if err != nil {
		return nil, errorf(ErrUnsupported, "LUKS2 header has a checksum of unknown kind '%s'", name)
	}
	body := make([]byte, size-binarySize2)
	if err := readFull(ctx, area, body, off+binarySize2); err != nil {
		return nil, message.Errorf(nil, "could not read encryption header: %w", err)
	}
	c := &headerCopy{size: int64(size), seqID: be.Uint64(b[seqID2:])}
	c.label, _ = text(b[label2 : label2+labelLen2])
	c.uuid, _ = text(b[uuid2 : uuid2+uuidLen2])
	c.label, c.uuid = strings.ToValidUTF8(c.label, "?"), strings.ToValidUTF8(c.uuid, "?")

	sum := bytes.Clone(b[sum2 : sum2+sumLen2])
	clear(b[sum2 : sum2+sumLen2])
	h := newHash()
	h.Write(b)
	h.Write(body)
	if !bytes.Equal(h.Sum(nil), sum[:h.Size()]) {
		return corrupt("LUKS2 header at %d has a wrong checksum", off)
	}
	c.binary = b
	c.text, _, _ = bytes.Cut(body, []byte{0})
	return c, nil
}

// keyBytes is the length of the volume key, the same for all slots of the digest.
func (h *luks2) keyBytes() int {
	if len(h.slots) == 0 {
		return 0
	}
	return h.slots[0].keySize
}

// check refuses key slots outside of the room for them.
func (h *luks2) check(headers, payload int64, detached bool) error {
	if !detached && payload < headers {
		return errorf(ErrCorrupt, "LUKS payload is overlapping with the header")
	}
	for i, s := range h.slots {
		begin, end := s.area.offset, s.area.offset+s.area.size
		switch {
		case begin < headers:
			return errorf(ErrCorrupt, "keyslot %d is overlapping with the LUKS header", s.number)
		case !detached && end > payload:
			return errorf(ErrCorrupt, "keyslot %d is overlapping with the encrypted payload", s.number)
		case int64(s.keySize)*int64(s.stripes) > s.area.size:
			return errorf(ErrCorrupt, "keyslot %d has no room for its key material", s.number)
		case s.keySize != h.slots[0].keySize:
			return errorf(ErrUnsupported, "keyslots with keys of different lengths are not supported")
		}
		for _, other := range h.slots[:i] {
			if begin < other.area.offset+other.area.size && other.area.offset < end {
				return errorf(ErrCorrupt, "keyslots %d and %d are overlapping in the header", other.number, s.number)
			}
		}
	}
	return nil
}

func (h *luks2) info(hdr *Header, info *Info) {
	info.Version, info.Label, info.SectorSize = 2, h.label, int64(hdr.SectorSize)
	info.HashAlg, info.MasterKeyIters = h.digest.hash, int64(h.digest.iterations)
	slots := slices.SortedFunc(slices.Values(h.slots), func(a, b slot2) int { return a.number - b.number })
	for _, s := range slots {
		number, stripes := int64(s.number), int64(s.stripes)
		slot := SlotInfo{Slot: &number, Active: true, KDF: s.kdf.kind, KeyOffset: s.area.offset, Stripes: &stripes}
		iters := int64(s.kdf.iterations)
		slot.Iters = &iters
		if s.kdf.kind != "pbkdf2" {
			memory, parallel := s.kdf.memory, int64(s.kdf.parallel)
			slot.Memory, slot.Parallel = &memory, &parallel
		}
		info.Slots = append(info.Slots, slot)
	}
}

// unlock2 tries key slots by priority: those of one priority beside each other if
// that costs no memory, argon2 one after the other.
func (h *Header) unlock2(ctx context.Context, passphrase []byte) (*Key, error) {
	var refused error
	for _, priority := range []int{priorityHigh, priorityNormal} {
		var cheap, dear []int
		for i, s := range h.v2.slots {
			switch {
			case s.priority != priority:
			case s.kdf.kind == "pbkdf2":
				cheap = append(cheap, i)
			default:
				dear = append(dear, i)
			}
		}
		groups := [][]int{cheap}
		for _, i := range dear {
			groups = append(groups, []int{i})
		}
		for _, group := range groups {
			k, err := search(ctx, group, func(ctx context.Context, i int) (*Key, error) {
				return h.unlockSlot2(ctx, &h.v2.slots[i], passphrase)
			})
			switch {
			case err == nil:
				return k, nil
			case errors.Is(err, ErrLimit) || errors.Is(err, ErrUnsupported):
				// Another slot may be for this passphrase.
				refused = err
			case !errors.Is(err, ErrPassphrase):
				return nil, err
			}
		}
	}
	if refused != nil {
		return nil, refused
	}
	return nil, ErrPassphrase
}
