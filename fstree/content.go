package fstree

import (
	"bytes"
	"fmt"
	"io"
)

// Content is what a file holds. Its methods may be called concurrently.
type Content interface {
	// Open returns a reader of the bytes.
	Open() (Reader, error)
}

// Reader reads a file. ReadAt may be called concurrently.
type Reader interface {
	io.ReaderAt
	io.Closer
	// NextData returns the first range of data at off or later: the bytes between off and
	// start are zero, as all from off on if start is the size of the file. What is not
	// known to be a hole is data. off is between 0 and the size.
	NextData(off int64) (start, end int64, err error)
}

// OpenContent opens the content of a file. One without content is of zeros.
func (n *Node) OpenContent() (Reader, error) {
	if n.Kind != File {
		return nil, fmt.Errorf("a %s has no content", n.Kind)
	}
	if n.Content == nil {
		return zeros(n.Size), nil
	}
	return n.Content.Open()
}

// zeros is a file that is one hole, of that many bytes.
type zeros int64

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(z) {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), int64(z)-off))
	clear(p[:n])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (z zeros) NextData(int64) (start, end int64, err error) { return int64(z), int64(z), nil }
func (z zeros) Close() error                                 { return nil }

// Bytes is a content in memory.
type Bytes []byte

// Open returns a reader of the bytes.
func (b Bytes) Open() (Reader, error) { return Section(bytes.NewReader(b), 0, int64(len(b))).Open() }

// Extent is a range of bytes.
type Extent struct{ Start, Length int64 }

// Section is a content without holes that is n bytes from offset off of a reader, which
// it does not close.
func Section(r io.ReaderAt, off, n int64) Content {
	return Sparse(r, n, []Piece{{Extent{0, n}, off}})
}

// Piece is a range of a file and the offset of its bytes in the source.
type Piece struct {
	Extent
	At int64
}

// Sparse is a content of size bytes whose data lies in pieces, ascending and apart from
// each other. All else is holes. It does not close the reader.
func Sparse(r io.ReaderAt, size int64, pieces []Piece) Content {
	return &sparse{r, size, pieces}
}

type sparse struct {
	r      io.ReaderAt
	size   int64
	pieces []Piece
}

func (s *sparse) Open() (Reader, error) { return s, nil }
func (s *sparse) Close() error          { return nil }

// from returns the pieces that end after off.
func (s *sparse) from(off int64) []Piece {
	lo, hi := 0, len(s.pieces)
	for lo < hi {
		if mid := (lo + hi) / 2; s.pieces[mid].Start+s.pieces[mid].Length <= off {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return s.pieces[lo:]
}

func (s *sparse) NextData(off int64) (start, end int64, err error) {
	for _, p := range s.from(off) {
		return max(off, p.Start), p.Start + p.Length, nil
	}
	return s.size, s.size, nil
}

func (s *sparse) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 || off > s.size {
		return 0, io.EOF
	}
	if int64(len(b)) > s.size-off {
		b, err = b[:s.size-off], io.EOF
	}
	for _, p := range s.from(off) {
		if n == len(b) {
			break
		}
		at := off + int64(n)
		if at < p.Start {
			hole := min(int64(len(b)-n), p.Start-at)
			clear(b[n:][:hole])
			n += int(hole)
			if n == len(b) {
				break
			}
			at = p.Start
		}
		want := min(int64(len(b)-n), p.Start+p.Length-at)
		got, readErr := s.r.ReadAt(b[n:][:want], p.At+at-p.Start)
		n += got
		if int64(got) < want {
			if readErr == nil || readErr == io.EOF {
				readErr = io.ErrUnexpectedEOF
			}
			return n, readErr
		}
	}
	clear(b[n:])
	return len(b), err
}

// DataAfter returns the first range of data at off or later in a content of size bytes:
// start and end are between off and size, and start is size where there is none. It fails
// for a content that is shorter than size, so that loops over ranges end.
func DataAfter(r Reader, off, size int64) (start, end int64, err error) {
	start, end, err = r.NextData(off)
	if err != nil {
		return 0, 0, err
	}
	if start >= size {
		return size, size, nil
	}
	if start < off || end <= start {
		return 0, 0, fmt.Errorf("the content ends at %d of %d bytes: %w", off, size, io.ErrUnexpectedEOF)
	}
	return start, min(end, size), nil
}
