package ondisk

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/internal/message"
)

// Fixed values of the section "Header".
const (
	Magic           = 0x514649fb // "QFI\xfb"
	HeaderSizeV2    = 72
	HeaderSizeV3    = 104 // the least that version 3 has
	HeaderSizeFull  = 112 // with compression_type and its padding
	MinClusterBits  = 9
	MaxClusterBits  = 21
	MaxBackingName  = 1023
	MaxRefcountBits = 64
)

// Incompatible feature bits: an image with an unknown one must not be opened.
const (
	IncompatDirty       uint64 = 1 << 0
	IncompatCorrupt     uint64 = 1 << 1
	IncompatDataFile    uint64 = 1 << 2
	IncompatCompression uint64 = 1 << 3
	IncompatExtendedL2  uint64 = 1 << 4
	IncompatKnown              = IncompatDirty | IncompatCorrupt | IncompatDataFile | IncompatCompression | IncompatExtendedL2
)

// Compatible feature bits: unknown ones can be ignored.
const CompatLazyRefcounts uint64 = 1 << 0

// Autoclear feature bits: a writer clears those it does not know.
const (
	AutoclearBitmaps     uint64 = 1 << 0
	AutoclearDataFileRaw uint64 = 1 << 1
	AutoclearKnown              = AutoclearBitmaps | AutoclearDataFileRaw
)

// Compression types (header byte 104).
const (
	CompressionZlib = 0 // raw deflate
	CompressionZstd = 1
)

// Encryption methods (header bytes 32 to 35).
const (
	CryptNone = 0
	CryptAES  = 1
	CryptLUKS = 2
)

// Header is the fixed part of the header.
type Header struct {
	Version               uint32
	BackingFileOffset     uint64
	BackingFileSize       uint32
	ClusterBits           uint32
	Size                  uint64
	CryptMethod           uint32
	L1Size                uint32 // entries
	L1TableOffset         uint64
	RefcountTableOffset   uint64
	RefcountTableClusters uint32
	NbSnapshots           uint32
	SnapshotsOffset       uint64

	// Version 3 and higher; for version 2 the values that it implies.
	Incompatible    uint64
	Compatible      uint64
	Autoclear       uint64
	RefcountOrder   uint32
	HeaderLength    uint32
	CompressionType uint8

	// Extra is what is between the known fields and HeaderLength, kept as it is.
	Extra []byte
}

// ErrMagic says that the input is not a qcow2 header.
var ErrMagic = message.Errorf(nil, "image is not in qcow2 format")

// ErrShort says that the input ends inside a record.
var ErrShort = errors.New("record is truncated")

// ClusterSize returns the size of a cluster in bytes.
func (h *Header) ClusterSize() int64 { return 1 << h.ClusterBits }

// ExtendedL2 says whether L2 entries have subcluster bitmaps.
func (h *Header) ExtendedL2() bool { return h.Incompatible&IncompatExtendedL2 != 0 }

// DecodeHeader reads the fixed part of the header from the start of an image.
// It checks the magic and that the input is long enough for the version, and
// nothing else: version and field values are for the caller to judge.
func DecodeHeader(b []byte) (*Header, error) {
	be := binary.BigEndian
	if len(b) < 8 || be.Uint32(b) != Magic {
		return nil, ErrMagic
	}
	h := &Header{Version: be.Uint32(b[4:])}
	if len(b) < HeaderSizeV2 {
		return nil, ErrShort
	}
	h.BackingFileOffset = be.Uint64(b[8:])
	h.BackingFileSize = be.Uint32(b[16:])
	h.ClusterBits = be.Uint32(b[20:])
	h.Size = be.Uint64(b[24:])
	h.CryptMethod = be.Uint32(b[32:])
	h.L1Size = be.Uint32(b[36:])
	h.L1TableOffset = be.Uint64(b[40:])
	h.RefcountTableOffset = be.Uint64(b[48:])
	h.RefcountTableClusters = be.Uint32(b[56:])
	h.NbSnapshots = be.Uint32(b[60:])
	h.SnapshotsOffset = be.Uint64(b[64:])
	if h.Version < 3 {
		h.RefcountOrder = 4
		h.HeaderLength = HeaderSizeV2
		return h, nil
	}
	if len(b) < HeaderSizeV3 {
		return nil, ErrShort
	}
	h.Incompatible = be.Uint64(b[72:])
	h.Compatible = be.Uint64(b[80:])
	h.Autoclear = be.Uint64(b[88:])
	h.RefcountOrder = be.Uint32(b[96:])
	h.HeaderLength = be.Uint32(b[100:])
	if h.HeaderLength > HeaderSizeV3 && len(b) > HeaderSizeV3 {
		h.CompressionType = b[104]
	}
	if int64(h.HeaderLength) > HeaderSizeFull && int64(len(b)) >= int64(h.HeaderLength) {
		h.Extra = append([]byte(nil), b[HeaderSizeFull:h.HeaderLength]...)
	}
	return h, nil
}

// Append appends the encoded header to b. HeaderLength is what the fields need:
// 72 for version 2, else 112 and what Extra holds.
func (h *Header) Append(b []byte) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, Magic)
	b = be.AppendUint32(b, h.Version)
	b = be.AppendUint64(b, h.BackingFileOffset)
	b = be.AppendUint32(b, h.BackingFileSize)
	b = be.AppendUint32(b, h.ClusterBits)
	b = be.AppendUint64(b, h.Size)
	b = be.AppendUint32(b, h.CryptMethod)
	b = be.AppendUint32(b, h.L1Size)
	b = be.AppendUint64(b, h.L1TableOffset)
	b = be.AppendUint64(b, h.RefcountTableOffset)
	b = be.AppendUint32(b, h.RefcountTableClusters)
	b = be.AppendUint32(b, h.NbSnapshots)
	b = be.AppendUint64(b, h.SnapshotsOffset)
	if h.Version < 3 {
		return b
	}
	b = be.AppendUint64(b, h.Incompatible)
	b = be.AppendUint64(b, h.Compatible)
	b = be.AppendUint64(b, h.Autoclear)
	b = be.AppendUint32(b, h.RefcountOrder)
	b = be.AppendUint32(b, uint32(HeaderSizeFull+len(h.Extra)))
	b = append(b, h.CompressionType, 0, 0, 0, 0, 0, 0, 0)
	return append(b, h.Extra...)
}

// Header extension types (section "Header extensions").
const (
	ExtEnd           = 0
	ExtBackingFormat = 0xe2792aca
	ExtFeatureNames  = 0x6803f857
	ExtBitmaps       = 0x23852875
	ExtCrypto        = 0x0537be77
	ExtDataFile      = 0x44415441
)

// Extension is one header extension.
type Extension struct {
	Type uint32
	Data []byte
}

// ExtensionHeaderSize is the size of type and length before the data of an extension. An end has nothing else.
const ExtensionHeaderSize = 8

// DecodeExtensions reads the extensions in b, which starts behind the header
// and ends where extensions must end (the backing file name, or the end of the
// first cluster). The data alias b.
func DecodeExtensions(b []byte) ([]Extension, error) {
	var exts []Extension
	for len(b) > 0 {
		if len(b) < 8 {
			return exts, fmt.Errorf("%d bytes are left for a header extension: %w", len(b), ErrShort)
		}
		typ, n := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
		b = b[8:]
		// QEMU refuses an end that has a length of its own too, if that does not fit.
		if int64(n) > int64(len(b)) {
			return exts, fmt.Errorf("header extension %#x has %d bytes, %d are left: %w", typ, n, len(b), ErrShort)
		}
		if typ == ExtEnd {
			return exts, nil
		}
		exts = append(exts, Extension{typ, b[:n]})
		b = b[min(int64(len(b)), (int64(n)+7)&^7):]
	}
	return exts, nil
}

// AppendExtension appends one extension, padded to 8 bytes.
func AppendExtension(b []byte, e Extension) []byte {
	b = binary.BigEndian.AppendUint32(b, e.Type)
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Data)))
	b = append(b, e.Data...)
	return append(b, make([]byte, -len(e.Data)&7)...)
}

// Feature types of the feature name table.
const (
	FeatureIncompatible = 0
	FeatureCompatible   = 1
	FeatureAutoclear    = 2
)

// FeatureName is an entry of the feature name table (section "Feature name table").
type FeatureName struct {
	Type, Bit uint8
	Name      string // at most 46 bytes
}

const featureNameSize = 48

// AppendFeatureNames appends the encoded table.
func AppendFeatureNames(b []byte, names []FeatureName) []byte {
	for _, n := range names {
		var e [featureNameSize]byte
		e[0], e[1] = n.Type, n.Bit
		copy(e[2:], n.Name)
		b = append(b, e[:]...)
	}
	return b
}

// DecodeFeatureNames reads the table; a partial last entry is ignored.
func DecodeFeatureNames(b []byte) []FeatureName {
	var names []FeatureName
	for ; len(b) > 2; b = b[min(featureNameSize, len(b)):] {
		name := b[2:min(featureNameSize, len(b))] // programs leave out zeroes at the end
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
		names = append(names, FeatureName{b[0], b[1], string(name)})
	}
	return names
}

// BitmapsExtension is the content of ExtBitmaps (section "Bitmaps extension").
type BitmapsExtension struct {
	Count           uint32
	DirectorySize   uint64
	DirectoryOffset uint64
}

// DecodeBitmapsExtension reads the extension's data.
func DecodeBitmapsExtension(b []byte) (BitmapsExtension, error) {
	if len(b) < 24 {
		return BitmapsExtension{}, ErrShort
	}
	be := binary.BigEndian
	return BitmapsExtension{be.Uint32(b), be.Uint64(b[8:]), be.Uint64(b[16:])}, nil
}
