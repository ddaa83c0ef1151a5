package fat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/internal/fat"
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
	sectorSize  = fat.SectorSize
	entrySize   = fat.EntrySize
	rootEntries = 512 // of FAT12 and FAT16
	maxDir      = 65536 * entrySize
	maxFile     = 1<<32 - 1
	maxCluster  = 65536
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
	volume fat.Volume

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
	f := &geometry{Options: o, next: 2}
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
	if f.Bits != 12 && f.Bits != 16 && f.Bits != 32 {
		return nil, fmt.Errorf("FAT%d is not one of FAT12, FAT16 and FAT32", f.Bits)
	}
	if f.Size <= 0 || f.Size/sectorSize > 1<<32-1 {
		return nil, fmt.Errorf("a size of %d bytes is out of range", o.Size)
	}
	f.volume = fat.Volume{
		Bits: f.Bits, Sectors: f.Size / sectorSize, RootEntries: rootEntries, System: "COWL",
		Hidden: o.HiddenSectors, Heads: 255, TrackSectors: 63, Serial: o.Serial,
	}
	label := strings.ToUpper(o.Label)
	if len(label) > len(f.volume.Label) || strings.ContainsFunc(label, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"*+,./:;<=>?[\]|`, r) }) {
		return nil, fmt.Errorf("%q is no label of a FAT file system", o.Label)
	}
	if label == "" {
		label = "NO NAME"
	}
	copy(f.volume.Label[:], fmt.Sprintf("%-11s", label))
	if size := int64(o.ClusterSize); size != 0 {
		if size < sectorSize || size > maxCluster || bits.OnesCount64(uint64(size)) != 1 {
			return nil, fmt.Errorf("clusters of %d bytes are not supported", o.ClusterSize)
		}
		f.volume.ClusterSectors = size / sectorSize
		return f, f.volume.Fit()
	}
	for size := f.usualCluster(); ; size *= 2 {
		f.volume.ClusterSectors = size / sectorSize
		if err := f.volume.Fit(); err == nil || f.volume.Clusters <= f.volume.MostClusters() || size == maxCluster {
			return f, err
		}
	}
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

// allocate gives an object of size bytes its clusters.
func (f *geometry) allocate(o *object, size int64) error {
	if o.count = (size + f.volume.ClusterSize() - 1) / f.volume.ClusterSize(); o.count > 0 {
		o.first = f.next
		f.next += o.count
	}
	if f.next-2 > f.volume.Clusters {
		return fmt.Errorf("%q: %w: it has %d clusters of %d bytes", o.path, ErrNoSpace, f.volume.Clusters, f.volume.ClusterSize())
	}
	f.objects = append(f.objects, o)
	return nil
}

// table is one file allocation table, as far as it is used.
func (f *geometry) table() []byte {
	b := make([]byte, (f.next*int64(f.Bits)+7)/8+3)
	for i, value := range f.volume.First() {
		f.volume.PutEntry(b, int64(i), value)
	}
	for _, o := range f.objects {
		for c := o.first; c < o.first+o.count; c++ {
			next := f.volume.End()
			if c+1 < o.first+o.count {
				next = uint32(c + 1)
			}
			f.volume.PutEntry(b, c, next)
		}
	}
	return b[:len(b)-3]
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
		case o.entries != nil && o.parent == nil && f.volume.RootSize() > 0:
			err = put("the root directory", o.entries, f.volume.DataStart()-f.volume.RootSize())
		case o.entries != nil:
			err = put("the directory "+o.path, o.entries, f.volume.Offset(uint32(o.first)))
		default:
			err = copyFile(w, f.volume.Offset(uint32(o.first)), o, buf)
		}
		if err != nil {
			return err
		}
	}
	table := f.table()
	for _, at := range f.volume.Tables() {
		if err := put("the table", table, at); err != nil {
			return err
		}
	}
	head := f.volume.Head(f.volume.Clusters-(f.next-2), f.next)
	if err := put("the reserved sectors", head[sectorSize:], sectorSize); err != nil {
		return err
	}
	// the file system shows its size, whatever its last sectors hold
	if end := f.Size - sectorSize; f.volume.Offset(uint32(f.next)) <= end {
		if err := put("the last sector", make([]byte, sectorSize), end); err != nil {
			return err
		}
	}
	return put("the boot sector", head[:sectorSize], 0)
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
