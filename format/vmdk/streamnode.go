package vmdk

import (
	"context"
	"io"
	"sync"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/chunks"
)

// createStream lays out a stream-optimized image without grains.
func (p *plan) createStream(ctx context.Context, file driver.Storage, text string) error {
	t := newTail(streamHeader(p.size), grainSectors*sectorSize)
	out, err := t.end(t.front(text))
	if err != nil {
		return err
	}
	if _, err := file.WriteAt(ctx, out, 0); err != nil {
		return err
	}
	return file.Flush(ctx)
}

// front returns what is in front of the grains.
func (t *tail) front(text string) []byte {
	out := make([]byte, grainSectors*sectorSize)
	copy(out, t.header.encode())
	copy(out[sectorSize:], text)
	return out
}

// streamNode is a stream-optimized image that is open for writing: grains are added, in
// any order, each once. The end of the file is written by Flush and Close.
type streamNode struct {
	*node
	x       *extent
	deflate deflater

	smu     sync.Mutex // guards what follows; held across I/O
	t       *tail
	changed bool   // there are grains that no end of the file names
	kept    []byte // the table read last
	keptAt  uint32 // its sector, 0: none
}

var (
	_ driver.Compressor = (*streamNode)(nil)
	_ driver.Format     = (*streamNode)(nil)
)

// newStreamNode takes over an image of which the directory is at the end of the file.
func newStreamNode(ctx context.Context, n *node) (*streamNode, error) {
	x := n.extents[0]
	h, err := readFooter(ctx, x.file)
	if err != nil || h.entries != tableEntries || h.grain != grainSectors {
		return nil, driver.Errorf(driver.ErrReadOnly, "a streamOptimized image with its tables in front, or of another size of grains, can only be read")
	}
	if h.capacity > maxStreamSize/sectorSize {
		return nil, driver.Errorf(driver.ErrBudget, "a streamOptimized image of more than %d TiB can only be read", maxStreamSize>>40)
	}
	if h.dir <= grainSectors {
		return nil, driver.Errorf(driver.ErrCorrupt, "the grain directory at sector %d lies in the header", h.dir)
	}
	before, err := readHead(ctx, x.file, int64(h.dir-1)*sectorSize)
	if err != nil {
		return nil, err
	}
	if le.Uint32(before[8:]) != 0 || le.Uint32(before[12:]) != markerDirectory {
		return nil, driver.Errorf(driver.ErrReadOnly, "a streamOptimized image without a marker of its directory can only be read")
	}
	s := &streamNode{node: n, x: x}
	header := *h
	header.dir = directoryAtEnd
	s.t = newTail(&header, int64(h.dir-1)*sectorSize)
	b := make([]byte, 4*len(s.t.dir))
	if n, err := x.file.ReadAt(ctx, b, int64(h.dir)*sectorSize); n < len(b) {
		if err == nil || err == io.EOF {
			err = driver.Errorf(driver.ErrTruncated, "the file ends in the grain directory")
		}
		return nil, err
	}
	for i := range s.t.dir {
		s.t.dir[i] = le.Uint32(b[4*i:])
	}
	return s, nil
}

// Traits implements driver.Node.
func (s *streamNode) Traits() driver.Traits {
	t := s.node.Traits()
	t.OnlyCompressed = true
	return t
}

// tableOf returns the entries of a table, nil if there is none. smu is held.
func (s *streamNode) tableOf(ctx context.Context, i int64) ([]byte, error) {
	sector := s.t.dir[i]
	if sector == 0 {
		return nil, nil
	}
	if s.keptAt == sector {
		return s.kept, nil
	}
	b := make([]byte, tableEntries*4)
	if n, err := s.x.file.ReadAt(ctx, b, int64(sector)*sectorSize); n < len(b) {
		if err == nil || err == io.EOF {
			err = driver.Errorf(driver.ErrCorrupt, "grain table %d at sector %d reaches beyond the end of the file", i, sector)
		}
		return nil, err
	}
	s.kept, s.keptAt = b, sector
	return b, nil
}

// entry returns the sector of a grain, 0 if it was not written. smu is held.
func (s *streamNode) entry(ctx context.Context, unit int64) (uint32, error) {
	i := unit / tableEntries
	if i == s.t.index {
		return s.t.table[unit%tableEntries], nil
	}
	b, err := s.tableOf(ctx, i)
	if b == nil || err != nil {
		return 0, err
	}
	return le.Uint32(b[unit%tableEntries*4:]), nil
}

// Map implements driver.Format.
func (s *streamNode) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	if off >= s.Size() {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	s.smu.Lock()
	defer s.smu.Unlock()
	length = min(length, s.Size()-off)
	x := driver.Extent{Kind: driver.ExtentUnallocated}
	for unit := off / s.x.grain; x.Length < length; unit++ {
		e, err := s.entry(ctx, unit)
		if err != nil {
			return x, err
		}
		kind := driver.ExtentUnallocated
		if e != 0 {
			kind = driver.ExtentEncoded
		}
		if x.Length > 0 && kind != x.Kind || x.Length > 0 && unit%tableEntries == 0 {
			break
		}
		x.Kind, x.Compressed = kind, e != 0
		x.Length = min(length, (unit+1)*s.x.grain-off)
	}
	if x.Kind == driver.ExtentUnallocated {
		s.mu.Lock()
		defer s.mu.Unlock()
		return x, s.parentErr
	}
	return x, nil
}

// ReadEncoded implements driver.Format.
func (s *streamNode) ReadEncoded(ctx context.Context, p []byte, off int64) error {
	return s.x.chunks.ReadAt(ctx, p, off, func(ctx context.Context, off int64) (chunks.Chunk, error) {
		s.smu.Lock()
		defer s.smu.Unlock()
		u := off / s.x.grain
		e, err := s.entry(ctx, u)
		host := int64(e) * sectorSize
		return chunks.Chunk{Offset: u * s.x.grain, Length: min(s.x.grain, s.Size()-u*s.x.grain), File: s.x.file, Host: host,
			Size: min(2*s.x.grain, max(0, s.x.file.Size()-host))}, err
	})
}

// Encode implements driver.Compressor. A grain that does not become smaller is
// compressed all the same: there are no others.
func (s *streamNode) Encode(dst, cluster []byte) ([]byte, bool, error) {
	if int64(len(cluster)) != s.x.grain {
		return dst, false, driver.Errorf(driver.ErrInvalid, "%d bytes given to compress, not a grain", len(cluster))
	}
	out, err := s.deflate.encode(dst, cluster)
	return out, err == nil, err
}

// WriteEncoded implements driver.Compressor.
func (s *streamNode) WriteEncoded(ctx context.Context, off int64, enc []byte) error {
	if off < 0 || off >= s.Size() || off%s.x.grain != 0 || len(enc) == 0 || int64(len(enc)) > 2*s.x.grain-grainMarkerSize {
		return driver.Errorf(driver.ErrInvalid, "%d compressed bytes at offset %d are not a grain", len(enc), off)
	}
	if err := s.firstWrite(ctx); err != nil {
		return err
	}
	s.smu.Lock()
	defer s.smu.Unlock()
	unit := off / s.x.grain
	e, err := s.entry(ctx, unit)
	if err != nil {
		return err
	}
	if e != 0 {
		return driver.Errorf(syscall.EIO, "could not write to allocated cluster for streamOptimized: %w", syscall.EIO)
	}
	before := *s.t // what is undone if the write fails
	var table uint32
	if before.index >= 0 {
		table = s.t.dir[before.index]
	}
	out := bufpool.Get(len(enc) + 8*sectorSize)
	defer bufpool.Put(out)
	start := s.t.pos
	p, err := s.append(ctx, out[:0], unit, enc)
	if err == nil {
		_, err = s.x.file.WriteAt(ctx, p, start)
	}
	if err != nil {
		if *s.t = before; before.index >= 0 {
			s.t.dir[before.index] = table
		}
		return err
	}
	s.changed = true
	return nil
}

// append makes the bytes of a grain, and opens the table that it belongs to, with what
// is in it already. smu is held.
func (s *streamNode) append(ctx context.Context, out []byte, unit int64, enc []byte) ([]byte, error) {
	i := unit / tableEntries
	if i != s.t.index {
		var err error
		if out, err = s.t.closeTable(out); err != nil {
			return nil, err
		}
		b, err := s.tableOf(ctx, i)
		if err != nil {
			return nil, err
		}
		s.t.index = i
		clear(s.t.table[:])
		for k := range len(b) / 4 {
			s.t.table[k] = le.Uint32(b[4*k:])
		}
	}
	return s.t.grain(out, unit, enc)
}

// Flush implements driver.Node: it writes the end of the file, which the next grain
// overwrites.
func (s *streamNode) Flush(ctx context.Context) error {
	if err := s.writeEnd(ctx); err != nil {
		return err
	}
	return s.node.file.Flush(ctx)
}

func (s *streamNode) writeEnd(ctx context.Context) error {
	s.smu.Lock()
	defer s.smu.Unlock()
	if !s.changed {
		return nil
	}
	// The open table goes on where it is now.
	t := *s.t
	t.dir = append([]uint32(nil), s.t.dir...)
	out, err := t.end(nil)
	if err == nil {
		_, err = s.x.file.WriteAt(ctx, out, s.t.pos)
	}
	if err == nil {
		s.changed = false
	}
	return err
}

// Close implements driver.Node.
func (s *streamNode) Close(ctx context.Context) error {
	err := s.writeEnd(ctx)
	if e := s.node.Close(ctx); err == nil {
		err = e
	}
	return err
}
