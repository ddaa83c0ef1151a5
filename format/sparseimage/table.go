package sparseimage

import (
	"cmp"
	"context"
	"encoding/binary"
	"io"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	magic      = "sprs"
	headerSize = 64
	nodeSize   = 4096 // of the header and of each further node, with its table
	version    = 3
	sectorSize = 512

	// Offsets of the fields of the header.
	offVersion = 4
	offBand    = 8  // sectors of a band
	offSize32  = 16 // sectors of the disk
	offNext    = 20
	offSize64  = 28 // sectors of the disk, or 0

	// Of a further node.
	offNodeNext  = 12
	offNodeTable = 56

	maxBand = 1 << 30 // bytes
	maxSize = 1 << 60 // bytes

	bandBytes = 16 // of a band in memory
)

var be = binary.BigEndian

// band is one that the file has.
type band struct {
	number int64 // on the disk, from 0
	host   int64 // where it begins in the file
}

func corrupt(format string, args ...any) error {
	return driver.Errorf(driver.ErrCorrupt, format, args...)
}

// readNode reads 4096 bytes at off.
func readNode(ctx context.Context, file driver.Storage, off int64) ([]byte, error) {
	b := make([]byte, nodeSize)
	n, err := file.ReadAt(ctx, b, off)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if n < len(b) {
		return nil, corrupt("the node at offset %d ends beyond the end of the file", off)
	}
	return b, nil
}

// open reads the header and all tables.
func open(ctx context.Context, file driver.Storage, budget *driver.Budget) (_ *node, err error) {
	if file.Size() < nodeSize {
		return nil, driver.Errorf(driver.ErrFormat, "image not in sparse image format")
	}
	head, err := readNode(ctx, file, 0)
	if err != nil {
		return nil, err
	}
	if string(head[:len(magic)]) != magic {
		return nil, driver.Errorf(driver.ErrFormat, "image not in sparse image format")
	}
	if v := be.Uint32(head[offVersion:]); v != version {
		return nil, driver.Errorf(driver.ErrUnsupported, "version %d of the sparse image format is not known", v)
	}
	n := &node{file: file, budget: budget, band: int64(be.Uint32(head[offBand:])) * sectorSize}
	if n.band == 0 || n.band > maxBand {
		return nil, corrupt("a band of %d bytes cannot be", n.band)
	}
	sectors := be.Uint64(head[offSize64:])
	if sectors == 0 {
		sectors = uint64(be.Uint32(head[offSize32:]))
	}
	if sectors > maxSize/sectorSize {
		return nil, corrupt("a disk of %d sectors cannot be", sectors)
	}
	n.size = int64(sectors) * sectorSize
	defer func() {
		if err != nil {
			n.release()
		}
	}()
	if err := n.addTable(head[headerSize:], nodeSize); err != nil {
		return nil, err
	}
	// Each node lies behind the bands of the one before, so that there is no circle.
	least := nodeSize + int64(nodeSize-headerSize)/4*n.band
	for next := be.Uint64(head[offNext:]); next != 0; {
		if next < uint64(least) || next > uint64(file.Size()-nodeSize) {
			return nil, corrupt("a further node at offset %d cannot be: it has to lie between %d and the end of the file", next, least)
		}
		at := int64(next)
		b, err := readNode(ctx, file, at)
		if err != nil {
			return nil, err
		}
		if string(b[:len(magic)]) != magic {
			return nil, corrupt("there is no node at offset %d", at)
		}
		if err := n.addTable(b[offNodeTable:], at+nodeSize); err != nil {
			return nil, err
		}
		least = at + nodeSize + int64(nodeSize-offNodeTable)/4*n.band
		next = be.Uint64(b[offNodeNext:])
	}
	slices.SortFunc(n.bands, func(a, b band) int { return cmp.Compare(a.number, b.number) })
	for i := 1; i < len(n.bands); i++ {
		if n.bands[i].number == n.bands[i-1].number {
			return nil, corrupt("band %d of the disk is there twice, at the offsets %d and %d", n.bands[i].number, n.bands[i-1].host, n.bands[i].host)
		}
	}
	return n, nil
}

// addTable adds the bands that a table names; the first place is at start.
func (n *node) addTable(table []byte, start int64) error {
	if err := n.budget.Table("the table of a sparse image", int64(len(table)/4*bandBytes)); err != nil {
		return err
	}
	n.reserved += int64(len(table) / 4 * bandBytes)
	count := (n.size + n.band - 1) / n.band
	for i := range int64(len(table) / 4) {
		number := int64(be.Uint32(table[4*i:]))
		if number == 0 {
			continue
		}
		host := start + i*n.band
		if number > count || host >= n.file.Size() {
			return corrupt("place %d of the table before offset %d has band %d: the disk has %d, the file %d bytes", i, start, number, count, n.file.Size())
		}
		n.bands = append(n.bands, band{number: number - 1, host: host})
	}
	return nil
}
