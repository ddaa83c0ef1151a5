package partition

import (
	"errors"
	"fmt"
	"io"
)

// The reasons for which a table is not read. Errors wrap them; those of the reader
// itself are wrapped beside or instead of them.
var (
	// ErrNoTable: the disk does not begin with a partition table.
	ErrNoTable = errors.New("no partition table")
	// ErrDamaged: there is a table, but it contradicts itself or is cut off.
	ErrDamaged = errors.New("damaged partition table")
)

// Scheme is a kind of partition table.
type Scheme string

// The kinds of partition table.
const (
	MBR Scheme = "mbr" // a master boot record
	GPT Scheme = "gpt" // a GUID partition table
)

// Table is a partition table.
type Table struct {
	Scheme Scheme
	// SectorSize is the unit in which the table counts, in bytes: 512, or 4096 for the
	// GPT of a disk with such sectors.
	SectorSize int64
	// DiskID is the disk signature of a master boot record, 0 for GPT.
	DiskID uint32
	// DiskGUID identifies a disk with GPT.
	DiskGUID GUID
	// Backup: the primary GPT is damaged, and this is the one at the end of the disk.
	Backup bool
	// Partitions are those within the disk, by number. They may overlap: an
	// extended partition holds the logical ones.
	Partitions []Partition
	// Outside are those that reach beyond the end of the disk: it is shorter than it was, or the
	// table is wrong. Start and Length are 0 where they exceed an int64.
	Outside []Partition
}

// Partition is an entry of a table.
type Partition struct {
	// Number counts from 1; logical partitions from 5, by the order of their records.
	Number int
	// Start and Length are in bytes.
	Start, Length int64
	// Type is the type byte of a master boot record's partition, 0 for GPT.
	Type byte
	// TypeGUID is the type of a GPT partition, GUID and Name are its own; zero for
	// those of a master boot record.
	TypeGUID, GUID GUID
	// Name is at most 36 UTF-16 units long in the table. It may hold any character.
	Name string
	// Attributes of a GPT partition: table 5.8 of the UEFI specification.
	Attributes uint64
	// Bootable: active in a master boot record, or marked for legacy BIOS in GPT.
	Bootable bool
}

// Extended reports whether the partition of a master boot record only holds others.
func (p Partition) Extended() bool { return extended(p.Type) }

// Section returns a reader of the partition; disk is what Read was given.
func (p Partition) Section(disk io.ReaderAt) *io.SectionReader {
	return io.NewSectionReader(disk, p.Start, p.Length)
}

// Lookup returns the partition of that number, if it is within the disk.
func (t *Table) Lookup(number int) (Partition, bool) { return lookup(t.Partitions, number) }

// LookupOutside returns the partition of that number that reaches beyond the disk.
func (t *Table) LookupOutside(number int) (Partition, bool) { return lookup(t.Outside, number) }

func lookup(list []Partition, number int) (Partition, bool) {
	for _, p := range list {
		if p.Number == number {
			return p, true
		}
	}
	return Partition{}, false
}

// add adds a partition to the table. size is that of the disk.
func (t *Table) add(p Partition, size int64) {
	if p.Length <= 0 || p.Start < 0 || p.Start > size-p.Length {
		t.Outside = append(t.Outside, p)
		return
	}
	t.Partitions = append(t.Partitions, p)
}

// Read reads the table of a disk of size bytes. It reads nothing beyond size.
//
// If the chain of logical partitions cannot be followed to its end, Read returns
// both the table with what comes before, and an error that wraps ErrDamaged or says
// why a record could not be read. All other errors come without a table.
func Read(disk io.ReaderAt, size int64) (*Table, error) {
	d := reader{disk, size}
	if size < mbrSize {
		return nil, ErrNoTable
	}
	var mbr [mbrSize]byte
	if err := d.full(mbr[:], 0); err != nil {
		return nil, err
	}
	if !signed(&mbr) {
		return nil, ErrNoTable
	}
	for i := range mbrEntries {
		if entryOf(&mbr, i).kind == typeProtective {
			return readGPT(d)
		}
	}
	return readMBR(d, &mbr)
}

// reader reads from a disk, within its size.
type reader struct {
	disk io.ReaderAt
	size int64
}

func (d reader) full(p []byte, off int64) error {
	if off < 0 || off > d.size-int64(len(p)) {
		return fmt.Errorf("%w: the disk of %d bytes has none at %d", ErrDamaged, d.size, off)
	}
	if n, err := d.disk.ReadAt(p, off); n < len(p) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read at %d: %w", off, err)
	}
	return nil
}
