package vhdx

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	mib        = 1 << 20
	sectorSize = 512

	fileSignature = "vhdxfile"
	offCreator    = 8
	maxCreator    = 512 // bytes

	headerSize   = 4096
	regionBytes  = 64 << 10
	firstRegions = 192 << 10 // offsets of the two tables
	lastRegions  = 256 << 10
	headerEnd    = mib // no structure begins before

	minBlock, maxBlock = mib, 256 * mib
	maxDisk            = 64 << 40
	chunkSectors       = 1 << 23 // that a sector bitmap block has bits for
)

// headerOffsets are those of the two headers.
var headerOffsets = [2]int64{64 << 10, 128 << 10}

var le = binary.LittleEndian

// guid is an identifier as it is on disk: the first three fields are little-endian.
type guid [16]byte

// String returns the form in which parent locators have it. libvhdi reads small letters only.
func (g guid) String() string {
	return fmt.Sprintf("{%08x-%04x-%04x-%x-%x}", le.Uint32(g[:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}

// parseGUID reads what String returns, with or without braces.
func parseGUID(s string) (g guid, ok bool) {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Trim(s, "{}"), "-", ""))
	if err != nil || len(b) != len(g) {
		return g, false
	}
	le.PutUint32(g[:], binary.BigEndian.Uint32(b))
	le.PutUint16(g[4:], binary.BigEndian.Uint16(b[4:]))
	le.PutUint16(g[6:], binary.BigEndian.Uint16(b[6:]))
	copy(g[8:], b[8:])
	return g, true
}

// known returns the identifier that the specification names.
func known(s string) guid {
	g, _ := parseGUID(s)
	return g
}

// Identifiers of regions (2.2.3.2), metadata items (2.6.2) and the type of locators
// (2.6.2.6.1).
var (
	regionBAT      = known("2DC27766-F623-4200-9D64-115E9BFD4A08")
	regionMetadata = known("8B7CA206-4790-4B9A-B8FE-575F050F886E")

	itemParameters = known("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
	itemSize       = known("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
	itemPage83     = known("BECA12AB-B2E6-4523-93EF-C309E000C746")
	itemLogical    = known("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
	itemPhysical   = known("CDA348C7-445D-4471-9CC9-E9885251C556")
	itemLocator    = known("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")

	locatorVHDX = known("B04AEFB7-D19E-4A81-B789-25B8E9445913")
)

// The states of blocks (2.5.1.1) and of sector bitmap blocks (2.5.1.2).
const (
	blockAbsent    = 0
	blockUndefined = 1
	blockZero      = 2
	blockUnmapped  = 3
	blockFull      = 6
	blockPartial   = 7
	bitmapPresent  = 6

	stateMask = 7
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// offChecksum is where headers, region tables and log entries have their checksum.
const offChecksum = 4

// checksum returns the checksum of b, in which the field counts as zeroes.
func checksum(b []byte) uint32 {
	sum := crc32.Update(0, castagnoli, b[:offChecksum])
	sum = crc32.Update(sum, castagnoli, make([]byte, 4))
	return crc32.Update(sum, castagnoli, b[offChecksum+4:])
}

// seal writes the checksum of b into it.
func seal(b []byte) { le.PutUint32(b[offChecksum:], checksum(b)) }

func sealed(b []byte) bool { return le.Uint32(b[offChecksum:]) == checksum(b) }

func corrupt(format string, args ...any) error {
	return driver.Errorf(driver.ErrCorrupt, format, args...)
}

func unsupported(format string, args ...any) error {
	return driver.Errorf(driver.ErrUnsupported, format, args...)
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
