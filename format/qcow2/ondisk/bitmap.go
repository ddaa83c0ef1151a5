package ondisk

import (
	"encoding/binary"

	"github.com/cowl-disk/cowl/internal/message"
)

// Flags of a bitmap directory entry (section "Bitmap directory").
const (
	BitmapInUse           uint32 = 1 << 0 // not saved properly: its contents are not true
	BitmapAuto            uint32 = 1 << 1 // records changes
	BitmapExtraCompatible uint32 = 1 << 2 // may be used although the extra data are not known
	BitmapKnownFlags             = BitmapInUse | BitmapAuto | BitmapExtraCompatible
)

// BitmapDirtyTracking is the only type of bitmap there is.
const BitmapDirtyTracking uint8 = 1

// Bits of bitmap table entries (section "Bitmap table").
const (
	BitmapTableReserved uint64 = 0xff000000000001fe
	BitmapTableAllOnes  uint64 = 1 << 0
)

// Limits on bitmaps, those of QEMU.
const (
	MaxBitmaps         = 65535
	MaxBitmapDirectory = 1024 * MaxBitmaps // bytes
	MaxBitmapName      = 1023              // bytes
	MaxBitmapTable     = 0x8000000         // entries
	MaxBitmapBytes     = 0x20000000        // of data
	MinGranularityBits = 9
	MaxGranularityBits = 31
)

// Bitmap is an entry of the bitmap directory.
type Bitmap struct {
	TableOffset     uint64
	TableSize       uint32 // entries
	Flags           uint32
	Type            uint8
	GranularityBits uint8
	Extra           []byte
	Name            string
}

const (
	bitmapFixed = 24
	// BitmapFlagsOffset is where the flags are in an entry: four bytes.
	BitmapFlagsOffset = 12
)

// Size is the length of the encoded entry in bytes, padding included.
func (b *Bitmap) Size() int {
	return (bitmapFixed + len(b.Extra) + len(b.Name) + 7) &^ 7
}

// Append appends the encoded entry. Name and Extra are not longer than their
// length fields can say.
func (b *Bitmap) Append(dst []byte) []byte {
	be := binary.BigEndian
	dst = be.AppendUint64(dst, b.TableOffset)
	dst = be.AppendUint32(dst, b.TableSize)
	dst = be.AppendUint32(dst, b.Flags)
	dst = append(dst, b.Type, b.GranularityBits)
	dst = be.AppendUint16(dst, uint16(len(b.Name)))
	dst = be.AppendUint32(dst, uint32(len(b.Extra)))
	dst = append(dst, b.Extra...)
	dst = append(dst, b.Name...)
	return append(dst, make([]byte, -(len(b.Extra)+len(b.Name))&7)...)
}

// Errors of DecodeBitmapDirectory.
var (
	ErrBitmapDirectory = message.Errorf(nil, "broken bitmap directory")
	ErrMoreBitmaps     = message.Errorf(nil, "more bitmaps found than specified in header extension")
	ErrLessBitmaps     = message.Errorf(nil, "less bitmaps found than specified in header extension")
)

// DecodeBitmapDirectory reads a directory, which fills b and has count entries.
// What the entries say is not judged: see Bitmap.Valid. Extra aliases b.
func DecodeBitmapDirectory(b []byte, count int) ([]Bitmap, error) {
	var list []Bitmap
	be := binary.BigEndian
	for len(b) > 0 {
		if len(b) < bitmapFixed {
			return nil, ErrBitmapDirectory
		}
		if len(list) == count {
			return nil, ErrMoreBitmaps
		}
		name, extra := int64(be.Uint16(b[18:])), int64(be.Uint32(b[20:]))
		total := (bitmapFixed + extra + name + 7) &^ 7
		if total > int64(len(b)) {
			return nil, ErrBitmapDirectory
		}
		at := bitmapFixed + extra
		list = append(list, Bitmap{
			TableOffset: be.Uint64(b), TableSize: be.Uint32(b[8:]), Flags: be.Uint32(b[BitmapFlagsOffset:]),
			Type: b[16], GranularityBits: b[17], Extra: b[bitmapFixed:at:at], Name: string(b[at : at+name]),
		})
		b = b[total:]
	}
	if len(list) != count {
		return nil, ErrLessBitmaps
	}
	return list, nil
}

// Valid says whether an entry keeps to the specification and to the limits, in an
// image with clusters of 1<<clusterBits bytes.
func (b *Bitmap) Valid(clusterBits uint32) bool {
	return b.TableSize != 0 && b.TableSize <= MaxBitmapTable && uint64(b.TableSize)<<clusterBits <= MaxBitmapBytes &&
		b.TableOffset != 0 && b.TableOffset&(1<<clusterBits-1) == 0 && b.TableOffset < 1<<56 &&
		b.GranularityBits >= MinGranularityBits && b.GranularityBits <= MaxGranularityBits &&
		b.Flags&^BitmapKnownFlags == 0 && b.Type == BitmapDirtyTracking &&
		len(b.Name) <= MaxBitmapName
}

// ValidBitmapTableEntry says whether an entry of a bitmap table keeps to the
// specification.
func ValidBitmapTableEntry(e uint64, clusterBits uint32) bool {
	off := e & OffsetMask
	return e&BitmapTableReserved == 0 && (off == 0 || e&BitmapTableAllOnes == 0 && off&(1<<clusterBits-1) == 0)
}

// BitmapTableSize is the number of table entries that a bitmap of a disk has.
func BitmapTableSize(size int64, granularityBits uint8, clusterBits uint32) int64 {
	up := func(n int64, shift uint32) int64 { return n>>shift + min(1, n&(1<<shift-1)) }
	return up(up(up(size, uint32(granularityBits)), 3), clusterBits)
}

// Append appends the encoded extension.
func (x BitmapsExtension) Append(dst []byte) []byte {
	be := binary.BigEndian
	dst = be.AppendUint32(dst, x.Count)
	dst = be.AppendUint32(dst, 0)
	dst = be.AppendUint64(dst, x.DirectorySize)
	return be.AppendUint64(dst, x.DirectoryOffset)
}
