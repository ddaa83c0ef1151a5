package qcow2

import (
	"encoding/binary"
	"errors"

	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// Bits of bitmap table entries (section "Bitmap table").
const (
	bitmapEntryReserved uint64 = 0xff000000000001fe
	bitmapEntryAllOnes  uint64 = 1
)

// Limits of the original on one bitmap.
const (
	bitmapDirFixed     = 24
	maxBitmapTable     = 0x8000000
	maxBitmapName      = 1023
	maxGranularityBits = 31
	minGranularityBits = 9
)

// bitmapTable is where the table of a bitmap lies, and its number of entries.
type bitmapTable struct{ off, n int64 }

// countBitmaps counts the bitmap directory, the tables and the data of the
// bitmaps (section "Bitmaps").
func (c *checker) countBitmaps() error {
	b := c.bitmaps
	if b.Count == 0 || c.hdr.Autoclear&ondisk.AutoclearBitmaps == 0 {
		return nil
	}
	off, size := int64(b.DirectoryOffset), int64(b.DirectorySize)
	if err := c.count(off, size); err != nil {
		return err
	}
	tables, err := c.bitmapTables(off, size)
	if err != nil {
		c.res.CheckErrors++
		return errCheck(textInvalid)
	}
	for _, t := range tables {
		if err := c.count(t.off, t.n*8); err != nil {
			return err
		}
		// What lies beyond the end of the file is zero.
		n := c.wordsInFile(t.off, t.n)
		words, err := readWords(c.ctx, c.file, t.off, n)
		if err != nil {
			c.res.CheckErrors++
			return errCheck(textIO)
		}
		for _, e := range words {
			host := int64(e & ondisk.OffsetMask)
			if e&bitmapEntryReserved != 0 || host != 0 && (e&bitmapEntryAllOnes != 0 || host&(c.cs-1) != 0) {
				c.suspect = true
				c.res.Corruptions++
				continue
			}
			if host != 0 {
				if err := c.count(host, c.cs); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// bitmapTables reads the bitmap directory.
func (c *checker) bitmapTables(off, size int64) ([]bitmapTable, error) {
	bad := errors.New("Broken bitmap directory")
	if off <= 0 || off > 1<<62 || size <= 0 || size > maxBitmapDirectory || off+size > c.fileSize {
		return nil, bad
	}
	if err := c.budget.Table("bitmap directory", size); err != nil {
		return nil, err
	}
	defer c.budget.Release(size)
	dir := make([]byte, size)
	if err := readZeroPadded(c.ctx, c.file, dir, off); err != nil {
		return nil, err
	}
	var tables []bitmapTable
	var total int64
	for len(dir) > 0 {
		if len(dir) < bitmapDirFixed {
			return nil, bad
		}
		t := bitmapTable{int64(binary.BigEndian.Uint64(dir)), int64(binary.BigEndian.Uint32(dir[8:]))}
		flags, kind, granularity := binary.BigEndian.Uint32(dir[12:]), dir[16], dir[17]
		name, extra := int(binary.BigEndian.Uint16(dir[18:])), int64(binary.BigEndian.Uint32(dir[20:]))
		n := alignUp(bitmapDirFixed+int64(name)+extra, 8)
		switch {
		case n > int64(len(dir)), t.n == 0, t.off <= 0, t.off&(c.cs-1) != 0, t.n > maxBitmapTable,
			granularity < minGranularityBits, granularity > maxGranularityBits,
			flags&^7 != 0, name == 0, name > maxBitmapName, kind != 1, extra != 0:
			return nil, bad
		}
		// Tables lie apart from each other, so all fit into the file.
		if total += t.n * 8; total > c.fileSize+int64(len(tables)+1)*c.cs {
			return nil, bad
		}
		tables = append(tables, t)
		if len(tables) > int(c.bitmaps.Count) {
			return nil, bad
		}
		dir = dir[n:]
	}
	if len(tables) != int(c.bitmaps.Count) {
		return nil, bad
	}
	return tables, nil
}
