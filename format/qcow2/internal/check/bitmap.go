package check

import (
	"fmt"
	"strings"
	"syscall"

	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// bitmapTable is where the table of a bitmap is, and its number of entries.
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
		return errCheck(syscall.EINVAL)
	}
	c.checkBitmapDirectory(off, size)
	for _, t := range tables {
		if err := c.count(t.off, t.n*8); err != nil {
			return err
		}
		// What is beyond the end of the file is zero.
		n := c.wordsInFile(t.off, t.n)
		words, err := tableio.ReadWords(c.ctx, c.file, t.off, n)
		if err != nil {
			c.res.CheckErrors++
			return errCheck(syscall.EIO)
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

// checkBitmapDirectory says whether anything else is where the directory is: QEMU
// does not write over other metadata, and so cannot open the image for writing.
func (c *checker) checkBitmapDirectory(off, size int64) {
	for i := off >> c.hdr.ClusterBits; i <= (off+size-1)>>c.hdr.ClusterBits; i++ {
		if n := c.counts.get(i); n > 1 {
			c.corrupt("ERROR bitmap directory at offset %#x: its cluster has %d references", off, n)
		}
	}
}

// judgeBitmap says what is wrong with an entry of the bitmap directory, "" if nothing
// is. size is that of the disk.
func judgeBitmap(b *ondisk.Bitmap, size int64, clusterBits uint32) string {
	inUse := b.Flags&ondisk.BitmapInUse != 0
	want := ondisk.BitmapTableSize(size, b.GranularityBits, clusterBits)
	switch {
	case strings.ContainsRune(b.Name, 0):
		return "the name has a zero byte"
	case !inUse && int64(b.TableSize) != want:
		return fmt.Sprintf("its table has %d entries, not %d", b.TableSize, want)
	}
	return ""
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
	if err := tableio.ReadPadded(c.ctx, c.file, b, off); err != nil {
		return nil, err
	}
	dir, err := ondisk.DecodeBitmapDirectory(b, int(c.bitmaps.Count))
	if err != nil {
		return nil, err
	}
	var tables []bitmapTable
	var total int64
	names := map[string]bool{}
	for i := range dir {
		b := &dir[i]
		if what := judgeBitmap(b, ondisk.WholeSectors(c.hdr.Size), c.hdr.ClusterBits); what != "" {
			c.corrupt("ERROR bitmap '%s': %s; bitmap directory entry corrupted", b.Name, what)
		}
		if names[b.Name] {
			c.corrupt("ERROR bitmap '%s' is in the bitmap directory more than once", b.Name)
		}
		names[b.Name] = true
		if !b.Valid(c.hdr.ClusterBits) || len(b.Extra) > 0 && b.Flags&ondisk.BitmapExtraCompatible == 0 {
			return nil, ondisk.ErrBitmapDirectory
		}
		t := bitmapTable{int64(b.TableOffset), int64(b.TableSize)}
		// Tables are separate from each other, so all fit into the file.
		if total += t.n * 8; total > c.fileSize+int64(len(tables)+1)*c.cs {
			return nil, ondisk.ErrBitmapDirectory
		}
		tables = append(tables, t)
	}
	return tables, nil
}
