package fat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/fstree"
)

// ErrNoSpace: the tree does not fit in the file system.
var ErrNoSpace = errors.New("the file system is too small for the tree")

// Options says how a file system is made.
type Options struct {
	// Size of the file system in bytes. What is no whole sector at its end is not used.
	Size int64
	// Bits of an entry in the table: 12, 16 or 32. 0 takes 12 for less than 4 MiB, 16
	// for less than 512 MiB, else 32.
	Bits int
	// ClusterSize in bytes, a power of two from 512 to 65536, 0 for what fits the size.
	ClusterSize int
	// Label is the name of the file system: up to 11 characters of ASCII, put in upper case.
	Label string
	// Serial is the number of the file system.
	Serial uint32
	// HiddenSectors is how many sectors of 512 bytes are on the disk before the file system.
	HiddenSectors uint32
	// Time is that of the label's entry.
	Time time.Time
}

const (
	sectorSize  = 512
	entrySize   = 32
	fats        = 2
	rootEntries = 512 // of FAT12 and FAT16
	maxDir      = 65536 * entrySize
	maxFile     = 1<<32 - 1

	// Numbers of clusters from which on a file system counts as FAT16 and FAT32.
	leastFAT16, leastFAT32 = 4085, 65525
)

// Write writes a file system of o.Size bytes from offset 0 of w on. What is not written
// must read as zeros. The tree must not be changed meanwhile.
func Write(ctx context.Context, w io.WriterAt, root *fstree.Node, o Options) error {
	f, err := layout(o)
	if err != nil {
		return err
	}
	if root.Kind != fstree.Dir {
		return fmt.Errorf("the root of the tree is a %s", root.Kind)
	}
	if err := f.plan(root); err != nil {
		return err
	}
	return f.write(ctx, w)
}

// geometry is where things are.
type geometry struct {
	Options
	cluster  int64 // bytes
	reserved int64 // sectors before the tables
	fatSize  int64 // sectors of one table
	rootSize int64 // bytes of the root directory of FAT12 and FAT16, 0 for FAT32
	clusters int64
	label    [11]byte

	objects []*object // in the order of their clusters
	next    int64     // the first free cluster
}

// object is a directory or a file with its clusters.
type object struct {
	path    string
	node    *fstree.Node
	first   int64 // cluster, 0 for none
	count   int64
	entries []byte // of a directory
	parent  *object
}

// layout chooses what the options leave open.
func layout(o Options) (*geometry, error) {
	f := &geometry{Options: o, reserved: 1}
	f.Size = o.Size / sectorSize * sectorSize
	if f.Bits == 0 {
		switch {
		case f.Size < 4<<20:
			f.Bits = 12
		case f.Size < 512<<20:
			f.Bits = 16
		default:
			f.Bits = 32
		}
	}
	switch f.Bits {
	case 12, 16:
		f.rootSize = rootEntries * entrySize
	case 32:
		f.reserved = 32
	default:
		return nil, fmt.Errorf("FAT%d is not one of FAT12, FAT16 and FAT32", f.Bits)
	}
	if f.Size <= 0 || f.Size/sectorSize > 1<<32-1 {
		return nil, fmt.Errorf("a size of %d bytes is out of range", o.Size)
	}
	label := strings.ToUpper(o.Label)
	if len(label) > len(f.label) || strings.ContainsFunc(label, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"*+,./:;<=>?[\]|`, r) }) {
		return nil, fmt.Errorf("%q is no label of a FAT file system", o.Label)
	}
	copy(f.label[:], fmt.Sprintf("%-11s", label))
	if label == "" {
		copy(f.label[:], "NO NAME    ")
	}
	least, most := map[int]int64{12: 1, 16: leastFAT16, 32: leastFAT32}[f.Bits], map[int]int64{12: leastFAT16 - 1, 16: leastFAT32 - 1, 32: 0x0ffffff5 - 2}[f.Bits]
	if o.ClusterSize != 0 {
		f.cluster = int64(o.ClusterSize)
		if f.cluster < sectorSize || f.cluster > 65536 || bits.OnesCount64(uint64(f.cluster)) != 1 {
			return nil, fmt.Errorf("clusters of %d bytes are not supported", o.ClusterSize)
		}
		f.count()
	} else {
		for f.cluster = f.usualCluster(); ; f.cluster *= 2 {
			if f.count(); f.clusters <= most || f.cluster == 65536 {
				break
			}
		}
	}
	if f.clusters < least || f.clusters > most {
		return nil, fmt.Errorf("%d bytes are %d clusters of %d: FAT%d has %d to %d", o.Size, max(f.clusters, 0), f.cluster, f.Bits, least, most)
	}
	f.next = 2
	return f, nil
}

// usualCluster is where the search for the size of clusters begins.
func (f *geometry) usualCluster() int64 {
	if f.Bits != 32 {
		return sectorSize
	}
	for _, c := range []struct{ size, cluster int64 }{{260 << 20, 512}, {8 << 30, 4096}, {16 << 30, 8192}, {32 << 30, 16384}} {
		if f.Size <= c.size {
			return c.cluster
		}
	}
	return 32768
}

// count computes the size of the tables, and how many clusters remain: a fixed point.
func (f *geometry) count() {
	sectors := f.Size / sectorSize
	per := f.cluster / sectorSize
	for f.fatSize = 1; ; f.fatSize++ {
		// from the number of clusters that the present size leaves
		f.clusters = (sectors - f.reserved - fats*f.fatSize - f.rootSize/sectorSize) / per
		need := ((f.clusters+2)*int64(f.Bits) + 7) / 8
		if need = (need + sectorSize - 1) / sectorSize; need <= f.fatSize || f.clusters <= 0 {
			return
		}
		// a table for need sectors leaves fewer clusters: no step is too far
		f.fatSize += max(0, (need-f.fatSize)/2-1)
	}
}

// dataStart is the offset of cluster 2.
func (f *geometry) dataStart() int64 {
	return (f.reserved+fats*f.fatSize)*sectorSize + f.rootSize
}

func (f *geometry) offset(cluster int64) int64 { return f.dataStart() + (cluster-2)*f.cluster }

// allocate gives an object of size bytes its clusters.
func (f *geometry) allocate(o *object, size int64) error {
	if o.count = (size + f.cluster - 1) / f.cluster; o.count > 0 {
		o.first = f.next
		f.next += o.count
	}
	if f.next-2 > f.clusters {
		return fmt.Errorf("%q: %w: it has %d clusters of %d bytes", o.path, ErrNoSpace, f.clusters, f.cluster)
	}
	f.objects = append(f.objects, o)
	return nil
}

// bootSector is the first sector (specification, section 3).
func (f *geometry) bootSector() []byte {
	b := make([]byte, sectorSize)
	le := binary.LittleEndian
	copy(b, "\xeb\x3c\x90COWL    ")
	sectors := f.Size / sectorSize
	le.PutUint16(b[11:], sectorSize)
	b[13] = byte(f.cluster / sectorSize)
	le.PutUint16(b[14:], uint16(f.reserved))
	b[16] = fats
	le.PutUint16(b[17:], uint16(f.rootSize/entrySize))
	if f.Bits != 32 && sectors < 1<<16 {
		le.PutUint16(b[19:], uint16(sectors))
	} else {
		le.PutUint32(b[32:], uint32(sectors))
	}
	b[21] = 0xf8 // a fixed disk
	le.PutUint16(b[24:], 63)
	le.PutUint16(b[26:], 255)
	le.PutUint32(b[28:], f.HiddenSectors)
	tail := b[36:]
	if f.Bits == 32 {
		b[1] = 0x58
		le.PutUint32(b[36:], uint32(f.fatSize))
		le.PutUint32(b[44:], 2) // the root directory
		le.PutUint16(b[48:], infoSector)
		le.PutUint16(b[50:], backupSector)
		tail = b[64:]
	} else {
		le.PutUint16(b[22:], uint16(f.fatSize))
	}
	tail[0], tail[2] = 0x80, 0x29
	le.PutUint32(tail[3:], f.Serial)
	copy(tail[7:], f.label[:])
	copy(tail[18:], fmt.Sprintf("FAT%d   ", f.Bits))
	copy(tail[26:], "\xcd\x18\xf4\xeb\xfd") // int 18h: the firmware goes on; else halt
	b[510], b[511] = 0x55, 0xaa
	return b
}

const infoSector, backupSector = 1, 6

// info is the sector with the number of free clusters (section 5).
func (f *geometry) info() []byte {
	b := make([]byte, sectorSize)
	le := binary.LittleEndian
	le.PutUint32(b, 0x41615252)
	le.PutUint32(b[484:], 0x61417272)
	le.PutUint32(b[488:], uint32(f.clusters-(f.next-2)))
	le.PutUint32(b[492:], uint32(min(f.next, f.clusters+1)))
	le.PutUint32(b[508:], 0xaa550000)
	return b
}

// table is one file allocation table, as far as it is used.
func (f *geometry) table() []byte {
	b := make([]byte, (f.next*int64(f.Bits)+7)/8+3)
	end := uint32(1)<<min(f.Bits, 28) - 1
	f.put(b, 0, end&^0xff|0xf8)
	f.put(b, 1, end)
	for _, o := range f.objects {
		for c := o.first; c < o.first+o.count; c++ {
			next := end
			if c+1 < o.first+o.count {
				next = uint32(c + 1)
			}
			f.put(b, c, next)
		}
	}
	return b[:len(b)-3]
}

// put sets an entry of the table.
func (f *geometry) put(b []byte, cluster int64, v uint32) {
	switch f.Bits {
	case 12:
		at := cluster * 3 / 2
		shift := uint(cluster&1) * 4
		old := uint32(b[at]) | uint32(b[at+1])<<8
		old |= v << shift
		b[at], b[at+1] = byte(old), byte(old>>8)
	case 16:
		binary.LittleEndian.PutUint16(b[2*cluster:], uint16(v))
	default:
		binary.LittleEndian.PutUint32(b[4*cluster:], v)
	}
}

func (f *geometry) write(ctx context.Context, w io.WriterAt) error {
	put := func(what string, b []byte, at int64) error {
		if _, err := w.WriteAt(b, at); err != nil {
			return fmt.Errorf("write %s at %d: %w", what, at, err)
		}
		return nil
	}
	buf := make([]byte, 1<<20)
	for _, o := range f.objects {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		switch {
		case o.entries != nil && o.parent == nil && f.rootSize > 0:
			err = put("the root directory", o.entries, f.dataStart()-f.rootSize)
		case o.entries != nil:
			err = put("the directory "+o.path, o.entries, f.offset(o.first))
		default:
			err = copyFile(w, f.offset(o.first), o, buf)
		}
		if err != nil {
			return err
		}
	}
	table := f.table()
	for i := range int64(fats) {
		if err := put("the table", table, (f.reserved+i*f.fatSize)*sectorSize); err != nil {
			return err
		}
	}
	boot := f.bootSector()
	if f.Bits == 32 {
		for _, at := range []int64{backupSector, 0} {
			if err := put("the information sector", f.info(), (at+infoSector)*sectorSize); err != nil {
				return err
			}
		}
		if err := put("the boot sector's copy", boot, backupSector*sectorSize); err != nil {
			return err
		}
	}
	// the file system shows its size, whatever its last sectors hold
	if end := f.Size - sectorSize; f.offset(f.next) <= end {
		if err := put("the last sector", make([]byte, sectorSize), end); err != nil {
			return err
		}
	}
	return put("the boot sector", boot, 0)
}

// copyFile writes the content of a file, without its holes.
func copyFile(w io.WriterAt, at int64, o *object, buf []byte) error {
	r, err := o.node.OpenContent()
	if err != nil {
		return fmt.Errorf("%q: %w", o.path, err)
	}
	defer r.Close()
	for off := int64(0); off < o.node.Size; {
		start, end, err := fstree.DataAfter(r, off, o.node.Size)
		if err != nil {
			return fmt.Errorf("%q: %w", o.path, err)
		}
		for off = start; off < end; {
			p := buf[:min(int64(len(buf)), end-off)]
			n, err := r.ReadAt(p, off)
			if n < len(p) {
				if err == nil || err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return fmt.Errorf("%q: read at %d: %w", o.path, off, err)
			}
			if _, err := w.WriteAt(p, at+off); err != nil {
				return fmt.Errorf("write %q at %d: %w", o.path, at+off, err)
			}
			off += int64(n)
		}
	}
	return nil
}
