package layout

import (
	"encoding/binary"
	"io"
	"iter"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/opts"
)

// Range is a range of the guest disk, in bytes.
type Range struct{ Off, Len int64 }

// StreamOptions says what NewStream writes.
type StreamOptions struct {
	// Size is the length of the guest disk.
	Size int64
	// Options are those of Create. Preallocation, an external data file and
	// encryption are refused.
	Options opts.Dict
	// Data gives the ranges that hold data, sorted and apart from each other.
	// Each is rounded out to clusters; everything else reads as zeroes, or from
	// the backing file. It is walked several times and must give the same
	// ranges each time.
	Data iter.Seq[Range]
}

// Stream writes an image from front to end to something that cannot seek: all
// metadata first, then the data clusters in the order of the guest disk. Memory
// does not depend on the size of the disk. It is used by one goroutine.
type Stream struct {
	w        io.Writer
	p        *createParams
	data     iter.Seq[Range]
	cs       int64
	clusters int64 // of data
	tables   int64 // L2 tables

	l1Offset, l2Offset, dataOffset int64
	reftableClusters, blocks       int64
	left                           int64 // bytes of data that Write expects
	tail                           int64 // zeroes behind the end of the disk, written by Close
	buf                            []byte
}

// NewStream lays an image out for the given data and writes its metadata to w.
// The caller then writes the bytes of Runs in order, and closes the stream.
func NewStream(w io.Writer, opt StreamOptions) (*Stream, error) {
	p, err := decodeCreate(opt.Options, opt.Size)
	if err != nil {
		return nil, err
	}
	if p.crypt != ondisk.CryptNone {
		return nil, driver.Errorf(driver.ErrUnsupported, "encryption is not supported when streaming qcow2")
	}
	if p.prealloc != driver.PreallocOff || p.dataFile != "" {
		return nil, driver.Errorf(driver.ErrUnsupported, "preallocation and external data files are not supported when streaming qcow2")
	}
	s := &Stream{w: w, p: p, data: opt.Data, cs: 1 << p.clusterBits}
	if s.data == nil {
		s.data = func(func(Range) bool) {}
	}
	s.buf = make([]byte, 0, max(tableio.PieceBytes, s.cs))
	if err := s.layOut(); err != nil {
		return nil, err
	}
	return s, s.writeMetadata()
}

// Total returns the length of the image file.
func (s *Stream) Total() int64 { return s.dataOffset + s.clusters*s.cs }

// Runs gives what is to be written, in bytes of the guest disk: the data ranges
// rounded out to clusters and joined. The last may end at the end of the disk.
func (s *Stream) Runs() iter.Seq[Range] {
	return func(yield func(Range) bool) {
		for r := range s.clusterRuns() {
			first := r.Off << s.p.clusterBits
			if !yield(Range{first, min(r.Len<<s.p.clusterBits, s.p.size-first)}) {
				return
			}
		}
	}
}

// clusterRuns is Runs in clusters.
func (s *Stream) clusterRuns() iter.Seq[Range] {
	return func(yield func(Range) bool) {
		first, end := int64(0), int64(0) // the run so far, in clusters
		for r := range s.data {
			if r.Len <= 0 {
				continue
			}
			a, b := r.Off>>s.p.clusterBits, (r.Off+r.Len+s.cs-1)>>s.p.clusterBits
			if a <= end && end > first {
				end = max(end, b)
				continue
			}
			if end > first && !yield(Range{first, end - first}) {
				return
			}
			first, end = a, b
		}
		if end > first {
			yield(Range{first, end - first})
		}
	}
}

// layOut counts the clusters and places everything.
func (s *Stream) layOut() error {
	last := int64(0)
	for r := range s.data {
		if r.Off < last || r.Len < 0 || r.Len > s.p.size-r.Off {
			return invalid("the data range of %d bytes at %d is out of order or beyond the end of the disk", r.Len, r.Off)
		}
		last = r.Off + r.Len
	}
	perTable := s.cs / s.p.entrySize()
	table := int64(-1)
	for r := range s.clusterRuns() {
		a, b := r.Off, r.Off+r.Len
		s.clusters += b - a
		first, end := a/perTable, (b-1)/perTable
		if first == table {
			first++
		}
		s.tables += end - first + 1
		table = end
	}
	l1 := (s.p.l1Size()*8 + s.cs - 1) / s.cs
	s.blocks, s.reftableClusters = refcountMetadata(1+l1+s.tables+s.clusters, s.cs, s.p.refcountOrder, false)
	if s.reftableClusters*s.cs > ondisk.MaxRefcountTableBytes {
		return errTooLarge()
	}
	s.l1Offset = (1 + s.reftableClusters + s.blocks) * s.cs
	s.l2Offset = s.l1Offset + l1*s.cs
	s.dataOffset = s.l2Offset + s.tables*s.cs
	for r := range s.Runs() {
		s.left += r.Len
	}
	s.tail = s.clusters*s.cs - s.left
	return nil
}

// put writes b through the buffer.
func (s *Stream) put(b []byte) error {
	for len(b) > 0 {
		n := copy(s.buf[len(s.buf):cap(s.buf)], b)
		s.buf, b = s.buf[:len(s.buf)+n], b[n:]
		if len(s.buf) == cap(s.buf) {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Stream) flush() error {
	_, err := s.w.Write(s.buf)
	s.buf = s.buf[:0]
	return err
}

// pad writes zeroes up to the next cluster; n bytes were written before.
func (s *Stream) pad(n int64) error { return s.put(make([]byte, -n&(s.cs-1))) }

func (s *Stream) writeMetadata() error {
	h := s.p.header()
	h.L1Size = uint32(s.p.l1Size())
	if h.L1Size > 0 {
		h.L1TableOffset = uint64(s.l1Offset)
	}
	h.RefcountTableOffset, h.RefcountTableClusters = uint64(s.cs), uint32(s.reftableClusters)
	b, err := newHeader(h, s.p.backing, s.p.backingFormat, "")
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return s.put(b) },
		func() error { return s.pad(int64(len(b))) },
		s.writeRefcounts, s.writeL1, s.writeL2, s.flush,
	}
	for _, f := range steps {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stream) word(v uint64) error {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	return s.put(b[:])
}

func (s *Stream) writeRefcounts() error {
	for i := range s.blocks {
		if err := s.word(uint64((1 + s.reftableClusters + i) * s.cs)); err != nil {
			return err
		}
	}
	if err := s.pad(s.blocks * 8); err != nil {
		return err
	}
	full := fullRefcountBlock(s.cs, s.p.refcountOrder)
	perBlock := s.cs * 8 >> s.p.refcountOrder
	total := s.Total() / s.cs
	for i := range s.blocks {
		if n := total - i*perBlock; n < perBlock {
			clear(full)
			for j := range n {
				ondisk.SetRefcount(full, int(j), s.p.refcountOrder, 1)
			}
		}
		if err := s.put(full); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stream) writeL1() error {
	perTable := s.cs / s.p.entrySize()
	next, offset := int64(0), s.l2Offset
	entry := func(index int64, v uint64) error {
		for ; next < index; next++ {
			if err := s.word(0); err != nil {
				return err
			}
		}
		next++
		return s.word(v)
	}
	for r := range s.clusterRuns() {
		end := (r.Off + r.Len - 1) / perTable
		for i := max(next, r.Off/perTable); i <= end; i++ {
			if err := entry(i, uint64(offset)|ondisk.FlagCopied); err != nil {
				return err
			}
			offset += s.cs
		}
	}
	n := s.p.l1Size()
	for ; next < n; next++ {
		if err := s.word(0); err != nil {
			return err
		}
	}
	return s.pad(n * 8)
}

func (s *Stream) writeL2() error {
	size := s.p.entrySize()
	perTable := s.cs / size
	table, index, used := make([]byte, s.cs), int64(-1), false
	host := s.dataOffset
	done := func() error {
		if !used {
			return nil
		}
		used = false
		err := s.put(table)
		clear(table)
		return err
	}
	for r := range s.clusterRuns() {
		for g, end := r.Off, r.Off+r.Len; g < end; g++ {
			if i := g / perTable; i != index {
				if err := done(); err != nil {
					return err
				}
				index = i
			}
			e := ondisk.L2Entry{Desc: uint64(host) | ondisk.FlagCopied}
			if s.p.extendedL2 {
				e.Bitmap = 1<<ondisk.SubclustersPerCluster - 1
			}
			ondisk.StoreL2(table, int(g%perTable), s.p.extendedL2, e)
			host += s.cs
			used = true
		}
	}
	return done()
}

// Write writes data: the bytes of Runs, in order. Pieces may end anywhere.
func (s *Stream) Write(b []byte) (int, error) {
	if int64(len(b)) > s.left {
		return 0, invalid("%d bytes more than the stream was laid out for", int64(len(b))-s.left)
	}
	n, err := s.w.Write(b)
	s.left -= int64(n)
	return n, err
}

// Close fills the last cluster and reports whether everything was written. It
// does not close the writer.
func (s *Stream) Close() error {
	if s.left != 0 {
		return invalid("the stream ends %d bytes early", s.left)
	}
	_, err := s.w.Write(make([]byte, s.tail))
	s.tail = 0
	return err
}
