package qcow2

import (
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
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
			if !ondisk.ValidBitmapTableEntry(e, c.hdr.ClusterBits) {
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
	if off <= 0 || off > 1<<62 || size <= 0 || size > ondisk.MaxBitmapDirectory || off+size > c.fileSize {
		return nil, ondisk.ErrBitmapDirectory
	}
	if err := c.budget.Table("bitmap directory", size); err != nil {
		return nil, err
	}
	defer c.budget.Release(size)
	b := make([]byte, size)
	if err := readZeroPadded(c.ctx, c.file, b, off); err != nil {
		return nil, err
	}
	dir, err := ondisk.DecodeBitmapDirectory(b, int(c.bitmaps.Count))
	if err != nil {
		return nil, err
	}
	var tables []bitmapTable
	var total int64
	for i := range dir {
		b := &dir[i]
		if !b.Valid(c.hdr.ClusterBits) || len(b.Extra) > 0 && b.Flags&ondisk.BitmapExtraCompatible == 0 {
			return nil, ondisk.ErrBitmapDirectory
		}
		t := bitmapTable{int64(b.TableOffset), int64(b.TableSize)}
		// Tables lie apart from each other, so all fit into the file.
		if total += t.n * 8; total > c.fileSize+int64(len(tables)+1)*c.cs {
			return nil, ondisk.ErrBitmapDirectory
		}
		tables = append(tables, t)
	}
	return tables, nil
}
