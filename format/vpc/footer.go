package vpc

import (
	"encoding/binary"
	"math/bits"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	footerSize = 512
	sectorSize = 512
	cookie     = "conectix"

	typeFixed   = 2
	typeDynamic = 3
	typeDiff    = 4

	// The geometry that stands for "too large for one" (section "CHS Calculation").
	maxCylinders, maxHeads, maxSectors = 65535, 16, 255
	maxGeometry                        = maxCylinders * maxHeads * maxSectors // sectors

	// maxSize is the size of the largest disk: 2040 GiB.
	maxSize = 2040 << 30
	noLink  = 1<<64 - 1
)

// Offsets of the fields of the footer (section "Hard Disk Footer Format").
const (
	offFeatures  = 8
	offVersion   = 12
	offData      = 16
	offTime      = 24
	offCreator   = 28
	offCreatorV  = 32
	offHost      = 36
	offOrigSize  = 40
	offSize      = 48
	offCylinders = 56
	offHeads     = 58
	offSectors   = 59
	offType      = 60
	offChecksum  = 64
	offUUID      = 68
)

type uuid [16]byte

// footer is the hard disk footer. What is not known of it is kept.
type footer struct {
	raw       [footerSize]byte
	data      uint64 // offset of the dynamic disk header
	creator   string
	size      uint64 // as the field says
	cylinders uint16
	heads     uint8
	sectors   uint8
	diskType  uint32
	id        uuid
}

// checksum is the one's complement of the sum of all bytes but those of the field at
// off.
func checksum(b []byte, off int) uint32 {
	var sum uint32
	for i, c := range b {
		if i < off || i >= off+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}

// decodeFooter decodes a footer. It returns nil if there is none, and whether its
// checksum is right.
func decodeFooter(b []byte) (f *footer, ok bool) {
	if len(b) < footerSize || string(b[:len(cookie)]) != cookie {
		return nil, false
	}
	be := binary.BigEndian
	f = &footer{data: be.Uint64(b[offData:]), creator: string(b[offCreator : offCreator+4]), size: be.Uint64(b[offSize:]),
		cylinders: be.Uint16(b[offCylinders:]), heads: b[offHeads], sectors: b[offSectors], diskType: be.Uint32(b[offType:])}
	copy(f.raw[:], b)
	copy(f.id[:], b[offUUID:])
	return f, be.Uint32(b[offChecksum:]) == checksum(b[:footerSize], offChecksum)
}

// encode returns the footer with its checksum.
func (f *footer) encode() []byte {
	be := binary.BigEndian
	b := f.raw
	be.PutUint64(b[offData:], f.data)
	copy(b[offCreator:offCreator+4], f.creator)
	be.PutUint64(b[offSize:], f.size)
	be.PutUint16(b[offCylinders:], f.cylinders)
	b[offHeads], b[offSectors] = f.heads, f.sectors
	be.PutUint32(b[offType:], f.diskType)
	copy(b[offUUID:], f.id[:])
	be.PutUint32(b[offChecksum:], checksum(b[:], offChecksum))
	return b[:]
}

// geometry returns how many sectors the geometry has.
func (f *footer) geometry() int64 {
	return int64(f.cylinders) * int64(f.heads) * int64(f.sectors)
}

// byGeometry says whether the geometry tells the size of the disk: for images of
// Virtual PC, and those that QEMU makes for it. force is the option of that name.
func (f *footer) byGeometry(force string) bool {
	chs := f.creator == "vpc " || f.creator == "qemu" || force == sizeCHS
	return chs && force != sizeCurrent && f.geometry() != maxGeometry
}

// diskSize returns the size of the disk in bytes.
func (f *footer) diskSize(force string) (int64, error) {
	sectors := f.size / sectorSize
	if f.byGeometry(force) {
		sectors = uint64(f.geometry())
	}
	if sectors > maxSize/sectorSize {
		return 0, driver.Errorf(driver.ErrUnsupported, "the disk has %d sectors, and may have %d", sectors, maxSize/sectorSize)
	}
	return int64(sectors) * sectorSize, nil
}

// newFooter returns the footer of a new disk.
func newFooter(diskType uint32, now time.Time) *footer {
	be := binary.BigEndian
	f := &footer{data: noLink, creator: "qemu", diskType: diskType, id: newUUID()}
	copy(f.raw[:], cookie)
	be.PutUint32(f.raw[offFeatures:], 2)
	be.PutUint32(f.raw[offVersion:], 0x00010000)
	be.PutUint32(f.raw[offTime:], uint32(now.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))/time.Second))
	be.PutUint32(f.raw[offCreatorV:], 0x00050003)
	copy(f.raw[offHost:], "Wi2k")
	if diskType != typeFixed {
		f.data = footerSize
	}
	return f
}

// setSize sets the size, to the next one that has a geometry unless exact is set. It
// returns what the size is then.
func (f *footer) setSize(size int64, exact bool) int64 {
	sectors := (size + sectorSize - 1) / sectorSize
	if exact {
		f.cylinders, f.heads, f.sectors = maxCylinders, maxHeads, maxSectors
	} else {
		f.cylinders, f.heads, f.sectors = 0, 0, 0
		want := min(sectors, maxGeometry)
		for n := want; want > f.geometry(); n++ {
			f.cylinders, f.heads, f.sectors = calculate(n)
		}
		if f.geometry() != maxGeometry {
			sectors = f.geometry()
		}
	}
	f.size = uint64(sectors) * sectorSize
	return int64(f.size)
}

// calculate returns the geometry for a number of sectors, rounded down, as the appendix
// "CHS Calculation" does it, but for disks of more than 127 GiB.
func calculate(total int64) (cylinders uint16, heads, sectors uint8) {
	total = min(total, maxGeometry)
	h, s := int64(16), int64(255)
	tracks := total / s // cylinders times heads
	if total < 65535*16*63 {
		s = 17
		tracks = total / s
		if h = max((tracks+1023)/1024, 4) & 0xff; tracks >= h*1024 || h > 16 {
			h, s = 16, 31
			tracks = total / s
		}
		if tracks >= h*1024 {
			h, s = 16, 63
			tracks = total / s
		}
	}
	return uint16(tracks / h), uint8(h), uint8(s)
}

// Offsets of the fields of the dynamic disk header (section "Dynamic Disk Header
// Format").
const (
	dynamicSize   = 1024
	dynamicCookie = "cxsparse"
	dynTable      = 16
	dynVersion    = 24
	dynEntries    = 28
	dynBlock      = 32
	dynChecksum   = 36
	dynParentID   = 40
	dynParentTime = 56
	dynParentName = 64 // UTF-16, 512 bytes
	dynLocators   = 576
)

// dynamic is the dynamic disk header.
type dynamic struct {
	raw     [dynamicSize]byte
	table   uint64
	entries uint32
	block   uint32
	parent  uuid
	ok      bool // the checksum is right
}

func decodeDynamic(b []byte) (*dynamic, error) {
	if string(b[:len(dynamicCookie)]) != dynamicCookie {
		return nil, corrupt("invalid header magic")
	}
	be := binary.BigEndian
	d := &dynamic{table: be.Uint64(b[dynTable:]), entries: be.Uint32(b[dynEntries:]), block: be.Uint32(b[dynBlock:])}
	copy(d.raw[:], b)
	copy(d.parent[:], b[dynParentID:])
	d.ok = be.Uint32(b[dynChecksum:]) == checksum(b[:dynamicSize], dynChecksum)
	if bits.OnesCount32(d.block) != 1 || d.block < sectorSize {
		return nil, driver.Errorf(driver.ErrCorrupt, "invalid block size %d", d.block)
	}
	return d, nil
}

func (d *dynamic) encode() []byte {
	be := binary.BigEndian
	b := d.raw
	copy(b[:], dynamicCookie)
	be.PutUint64(b[dynTable:], d.table)
	be.PutUint32(b[dynEntries:], d.entries)
	be.PutUint32(b[dynBlock:], d.block)
	copy(b[dynParentID:], d.parent[:])
	be.PutUint32(b[dynChecksum:], checksum(b[:], dynChecksum))
	return b[:]
}

// bitmap returns the length of the sector bitmap in front of a block.
func (d *dynamic) bitmap() int64 { return roundUp((int64(d.block)/sectorSize+7)/8, sectorSize) }

func (d *dynamic) tableEnd() int64 { return int64(d.table) + int64(d.entries)*4 }

func corrupt(format string, args ...any) error {
	return driver.Errorf(driver.ErrCorrupt, format, args...)
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
