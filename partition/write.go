package partition

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
)

// Types of partitions (UEFI specification, table 5.7, and the Discoverable Partitions
// Specification).
var (
	TypeEFISystem       = mustGUID("C12A7328-F81F-11D2-BA4B-00A0C93EC93B")
	TypeLinuxFilesystem = mustGUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")
	TypeLinuxRootX86    = mustGUID("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709")
	TypeLinuxRootARM64  = mustGUID("B921B045-1DF0-41C3-AF44-4C6F280D3FAE")
)

func mustGUID(text string) GUID {
	g, err := ParseGUID(text)
	if err != nil {
		panic(err)
	}
	return g
}

// ParseGUID is the reverse of String. Upper and lower case are the same.
func ParseGUID(text string) (g GUID, err error) {
	parts := strings.Split(text, "-")
	b, err := hex.DecodeString(strings.Join(parts, ""))
	if err != nil || len(b) != 16 || len(parts) != 5 || len(parts[0]) != 8 || len(parts[1]) != 4 || len(parts[2]) != 4 || len(parts[3]) != 4 {
		return g, fmt.Errorf("%q is no GUID", text)
	}
	copy(g[:], b)
	for _, field := range [][]byte{g[:4], g[4:6], g[6:8]} { // little-endian on disk
		slices.Reverse(field)
	}
	return g, nil
}

// DeriveGUID makes an identifier that depends on the seed only, with the version of
// random ones.
func DeriveGUID(seed ...string) (g GUID) {
	h := sha256.New()
	for _, s := range seed {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		io.WriteString(h, s)
	}
	copy(g[:], h.Sum(nil))
	g[7] = g[7]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g
}

const (
	gptEntries = 128 // of the tables that are written
)

// GPTReserved returns how many bytes at the beginning, and how many at the end, of a disk
// with such sectors the tables that WriteGPT writes take.
func GPTReserved(sectorSize int64) (first, last int64) {
	entries := (gptEntries*gptMinEntry + sectorSize - 1) / sectorSize * sectorSize
	return 2*sectorSize + entries, sectorSize + entries
}

// WriteGPT writes a GUID partition table to a disk of size bytes: a protective master boot
// record, the table, and its backup at the end. Of t it takes SectorSize (0 is 512),
// DiskGUID and Partitions: their Number, 1 to 128, or 0 for the next that is free, Start,
// Length, TypeGUID, GUID, Name and Attributes. Bytes between the tables are left alone.
//
// It fails, and writes nothing, if a partition is not of whole sectors, lies in the room
// of the tables or overlaps another. The backup is written first: if writing fails, one
// of the two tables is whole, the old one or the new one, where the old one had its
// backup at the same place.
func WriteGPT(disk io.WriterAt, size int64, t *Table) error {
	unit := t.SectorSize
	if unit == 0 {
		unit = mbrSize
	}
	if unit != 512 && unit != 4096 {
		return fmt.Errorf("sectors of %d bytes are not supported, only of 512 and 4096", unit)
	}
	sectors := size / unit
	first, last := GPTReserved(unit)
	if size%unit != 0 || size < first+last {
		return fmt.Errorf("a disk of %d bytes has no room for a GPT with sectors of %d", size, unit)
	}
	entries, err := gptTable(t, unit, first, size-last)
	if err != nil {
		return err
	}
	array := last / unit // sectors of the backup
	header := func(at, other, entriesAt int64) []byte {
		le := binary.LittleEndian
		h := append([]byte("EFI PART"), 0, 0, 1, 0) // revision 1.0
		h = le.AppendUint32(h, gptMinHeader)
		h = le.AppendUint64(h, 0) // the checksum, and what is reserved
		for _, v := range []int64{at, other, first / unit, (size-last)/unit - 1} {
			h = le.AppendUint64(h, uint64(v))
		}
		h = append(h, t.DiskGUID[:]...)
		h = le.AppendUint64(h, uint64(entriesAt))
		h = le.AppendUint32(h, gptEntries)
		h = le.AppendUint32(h, gptMinEntry)
		h = le.AppendUint32(h, crc32.ChecksumIEEE(entries))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
		return append(h, make([]byte, unit-int64(len(h)))...)
	}
	padded := append(slices.Clone(entries), make([]byte, last-unit-int64(len(entries)))...)
	backup := append(slices.Clone(padded), header(sectors-1, 1, sectors-array)...)
	primary := append(protective(sectors, unit), header(1, sectors-1, 2)...)
	for _, w := range []struct {
		b  []byte
		at int64
	}{{backup, size - last}, {append(primary, padded...), 0}} {
		if _, err := disk.WriteAt(w.b, w.at); err != nil {
			return fmt.Errorf("write the partition table at %d: %w", w.at, err)
		}
	}
	return nil
}

// gptTable encodes the entries. Partitions lie from first up to end.
func gptTable(t *Table, unit, first, end int64) ([]byte, error) {
	array := make([]byte, gptEntries*gptMinEntry)
	used := map[int]bool{}
	for _, p := range t.Partitions {
		if p.Number != 0 && used[p.Number] {
			return nil, fmt.Errorf("two partitions have number %d", p.Number)
		}
		used[p.Number] = true
	}
	next := 1
	for _, p := range t.Partitions {
		number := p.Number
		if number == 0 {
			for used[next] {
				next++
			}
			number = next
			used[number] = true
		}
		name := utf16.Encode([]rune(p.Name))
		switch {
		case number < 1 || number > gptEntries:
			return nil, fmt.Errorf("partition %d: numbers are from 1 to %d", number, gptEntries)
		case p.TypeGUID == GUID{}:
			return nil, fmt.Errorf("partition %d has no type", number)
		case len(name) > 36:
			return nil, fmt.Errorf("partition %d: the name %q is longer than 36 characters", number, p.Name)
		case p.Length <= 0 || p.Start%unit != 0 || p.Length%unit != 0:
			return nil, fmt.Errorf("partition %d at %d with %d bytes is not of whole sectors", number, p.Start, p.Length)
		case p.Start < first || p.Length > end-p.Start:
			return nil, fmt.Errorf("partition %d at %d with %d bytes does not lie between %d and %d", number, p.Start, p.Length, first, end)
		}
		e := array[(number-1)*gptMinEntry:]
		copy(e, p.TypeGUID[:])
		copy(e[16:], p.GUID[:])
		le := binary.LittleEndian
		le.PutUint64(e[32:], uint64(p.Start/unit))
		le.PutUint64(e[40:], uint64((p.Start+p.Length)/unit-1))
		attributes := p.Attributes
		if p.Bootable {
			attributes |= gptLegacyBoot
		}
		le.PutUint64(e[48:], attributes)
		for i, u := range name {
			le.PutUint16(e[56+2*i:], u)
		}
	}
	byStart := slices.SortedFunc(slices.Values(t.Partitions), func(a, b Partition) int { return cmp.Compare(a.Start, b.Start) })
	for i := 1; i < len(byStart); i++ {
		if a, b := byStart[i-1], byStart[i]; a.Start+a.Length > b.Start {
			return nil, fmt.Errorf("the partitions at %d and %d overlap", a.Start, b.Start)
		}
	}
	return array, nil
}

// protective is the boot record of a disk with GPT: one partition over all of it (UEFI
// specification, table 5.4), in a whole sector.
func protective(sectors, unit int64) []byte {
	b := make([]byte, unit)
	e := b[446:]
	copy(e, []byte{0, 0x00, 0x02, 0x00, typeProtective, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(sectors-1, 1<<32-1)))
	b[510], b[511] = 0x55, 0xaa
	return b
}

// ReaderWriterAt is a disk.
type ReaderWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// GrowGPT moves the backup of the table to the end of a disk that has become longer, and
// makes the new room usable. size is the disk's size now. What the old backup was is
// cleared. Partitions stay as they are; WriteGPT changes them.
func GrowGPT(disk ReaderWriterAt, size int64) (*Table, error) {
	t, err := Read(disk, size)
	if err != nil {
		return nil, err
	}
	if t.Scheme != GPT || t.Backup {
		return nil, fmt.Errorf("the disk has no whole primary GPT, but %s", t.Scheme)
	}
	if len(t.Outside) > 0 {
		return nil, fmt.Errorf("partition %d does not lie on the disk", t.Outside[0].Number)
	}
	size = size / t.SectorSize * t.SectorSize
	var h [gptMinHeader]byte
	d := reader{disk, size}
	if err := d.full(h[:], t.SectorSize); err != nil {
		return nil, err
	}
	old := binary.LittleEndian.Uint64(h[32:])
	if err := WriteGPT(disk, size, t); err != nil {
		return nil, err
	}
	_, last := GPTReserved(t.SectorSize)
	start := int64(min(old, uint64(size)))*t.SectorSize + t.SectorSize - last
	if old >= uint64(size/t.SectorSize) || start >= size-last || start < last {
		return t, nil // not on the disk, or where the new one is
	}
	var magic [8]byte
	if err := d.full(magic[:], start+last-t.SectorSize); err != nil {
		return nil, err
	}
	if string(magic[:]) != "EFI PART" || overlaps(t, start, last) {
		return t, nil // nothing that would be taken for a table
	}
	n := min(last, size-last-start)
	if _, err := disk.WriteAt(make([]byte, n), start); err != nil {
		return nil, errors.Join(fmt.Errorf("clear the old backup of the partition table at %d", start), err)
	}
	return t, nil
}

func overlaps(t *Table, start, n int64) bool {
	for _, p := range t.Partitions {
		if p.Start < start+n && start < p.Start+p.Length {
			return true
		}
	}
	return false
}
