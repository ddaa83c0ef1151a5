package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/cowl-disk/cowl/fstree"
)

// ErrFormat: the image is damaged or not of this format.
var ErrFormat = errors.New("damaged squashfs image")

// Compression is a compressor by its number in the superblock.
type Compression uint16

// The compressors. LZO is not supported.
const (
	Gzip Compression = 1 + iota
	LZMA
	LZO
	XZ
	LZ4
	Zstd
)

var compressionNames = [...]string{Gzip: "gzip", LZMA: "lzma", LZO: "lzo", XZ: "xz", LZ4: "lz4", Zstd: "zstd"}

// String returns the name that mksquashfs takes for -comp.
func (c Compression) String() string {
	if c >= Gzip && c <= Zstd {
		return compressionNames[c]
	}
	return fmt.Sprintf("compressor %d", uint16(c))
}

// ParseCompression is the reverse of String.
func ParseCompression(name string) (Compression, error) {
	for c, n := range compressionNames {
		if n == name && n != "" {
			return Compression(c), nil
		}
	}
	return 0, fmt.Errorf("%q is no compressor of squashfs (gzip, lzma, lzo, xz, lz4, zstd)", name)
}

const (
	magic          = 0x73717368
	superblockSize = 96
	metaSize       = 8192 // unpacked bytes in a metadata block
	minBlock       = 4096
	maxBlock       = 1 << 20

	metaRaw = 0x8000  // of a metadata block's header: the block is not compressed
	dataRaw = 1 << 24 // of a data block's size: the block is not compressed

	none32 = 1<<32 - 1 // no fragment, no attributes
	none64 = 1<<64 - 1 // no table

	dirHeaderMost = 256 // entries after one header of a listing
)

// The flags of the superblock.
const (
	flagNoFragments   = 0x10
	flagTailFragments = 0x20
	flagDuplicates    = 0x40
	flagExports       = 0x80
	flagNoXattrs      = 0x200
	flagOptions       = 0x400
)

// The types of inodes; those of the extended form are extendedType higher.
const (
	typeDir = 1 + iota
	typeFile
	typeSymlink
	typeBlock
	typeChar
	typeFIFO
	typeSocket
	extendedType = 7
)

var inodeTypes = map[fstree.Kind]uint16{fstree.Dir: typeDir, fstree.File: typeFile, fstree.Symlink: typeSymlink,
	fstree.BlockDevice: typeBlock, fstree.CharDevice: typeChar, fstree.FIFO: typeFIFO, fstree.Socket: typeSocket}

var kinds = [...]fstree.Kind{typeDir: fstree.Dir, typeFile: fstree.File, typeSymlink: fstree.Symlink,
	typeBlock: fstree.BlockDevice, typeChar: fstree.CharDevice, typeFIFO: fstree.FIFO, typeSocket: fstree.Socket}

// xattrPrefixes are the namespaces of extended attributes by their numbers.
var xattrPrefixes = [...]string{"user.", "trusted.", "security."}

const xattrElsewhere = 0x100 // the value is a reference to another attribute's

// superblock is the first record of an image.
type superblock struct {
	inodes, time, blockSize, fragments                                uint32
	compression                                                       Compression
	flags, ids                                                        uint16
	root, used                                                        uint64
	idTable, xattrTable, inodeTable, dirTable, fragTable, exportTable uint64
}

func (s *superblock) encode() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, magic)
	b = le.AppendUint32(b, s.inodes)
	b = le.AppendUint32(b, s.time)
	b = le.AppendUint32(b, s.blockSize)
	b = le.AppendUint32(b, s.fragments)
	b = le.AppendUint16(b, uint16(s.compression))
	b = le.AppendUint16(b, uint16(bits.TrailingZeros32(s.blockSize)))
	b = le.AppendUint16(b, s.flags)
	b = le.AppendUint16(b, s.ids)
	b = le.AppendUint16(b, 4)
	b = le.AppendUint16(b, 0)
	for _, v := range []uint64{s.root, s.used, s.idTable, s.xattrTable, s.inodeTable, s.dirTable, s.fragTable, s.exportTable} {
		b = le.AppendUint64(b, v)
	}
	return b
}

// decodeSuperblock takes superblockSize bytes. size is that of the image.
func decodeSuperblock(b []byte, size int64) (s superblock, err error) {
	le := binary.LittleEndian
	if le.Uint32(b) != magic {
		return s, fmt.Errorf("%w: no squashfs superblock", ErrFormat)
	}
	if major, minor := le.Uint16(b[28:]), le.Uint16(b[30:]); major != 4 || minor != 0 {
		return s, fmt.Errorf("%w: version %d.%d is not supported, only 4.0", ErrFormat, major, minor)
	}
	s = superblock{inodes: le.Uint32(b[4:]), time: le.Uint32(b[8:]), blockSize: le.Uint32(b[12:]), fragments: le.Uint32(b[16:]),
		compression: Compression(le.Uint16(b[20:])), flags: le.Uint16(b[24:]), ids: le.Uint16(b[26:])}
	for i, p := range []*uint64{&s.root, &s.used, &s.idTable, &s.xattrTable, &s.inodeTable, &s.dirTable, &s.fragTable, &s.exportTable} {
		*p = le.Uint64(b[32+8*i:])
	}
	if s.blockSize < minBlock || s.blockSize > maxBlock || bits.OnesCount32(s.blockSize) != 1 || 1<<le.Uint16(b[22:]) != s.blockSize {
		return s, fmt.Errorf("%w: block size %d", ErrFormat, s.blockSize)
	}
	if s.used < superblockSize || s.used > uint64(size) {
		return s, fmt.Errorf("%w: the image of %d bytes is cut off: it should have %d", ErrFormat, size, s.used)
	}
	if s.inodeTable >= s.dirTable || s.dirTable >= s.used || s.idTable >= s.used || s.ids == 0 {
		return s, fmt.Errorf("%w: tables at %d, %d and %d of %d bytes", ErrFormat, s.inodeTable, s.dirTable, s.idTable, s.used)
	}
	return s, nil
}

// encodeDevice packs device numbers as Linux does in 32 bits.
func encodeDevice(major, minor uint32) (uint32, error) {
	if major >= 1<<12 || minor >= 1<<20 {
		return 0, fmt.Errorf("the device numbers %d:%d do not fit in 12 and 20 bits", major, minor)
	}
	return minor&0xff | major<<8 | minor>>8<<20, nil
}

func decodeDevice(v uint32) (major, minor uint32) {
	return v >> 8 & 0xfff, v&0xff | v>>20<<8
}
