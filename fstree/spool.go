package fstree

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/cowl-disk/cowl/internal/tmpfile"
)

// spool is a temporary file that holds the contents of a stream's files.
type spool struct {
	file *tmpfile.File
	out  *bufio.Writer
	size int64
	buf  []byte
}

func newSpool(dir string) (*spool, error) {
	f, err := tmpfile.Anonymous(dir, "cowl-tree-*")
	if err != nil {
		return nil, err
	}
	return &spool{file: f, out: bufio.NewWriterSize(f, 1<<20), buf: make([]byte, 128<<10)}, nil
}

// Close deletes the file.
func (s *spool) Close() error { return s.file.Discard() }

// ReadAt reads what has been flushed.
func (s *spool) ReadAt(p []byte, off int64) (int, error) { return s.file.ReadAt(p, off) }

// hole is the unit in which zeros of a sparse file are left out.
const hole = 4096

// add copies n bytes from r and returns them as a content. Where sparse is set, blocks of
// zeros become holes.
func (s *spool) add(r io.Reader, n int64, sparse bool, use *Meter) (Content, error) {
	if !sparse {
		at := s.size
		if err := use.spooled(n); err != nil {
			return nil, err
		}
		got, err := io.CopyBuffer(struct{ io.Writer }{s.out}, struct{ io.Reader }{io.LimitReader(r, n)}, s.buf)
		s.size += got
		if err == nil && got < n {
			err = io.ErrUnexpectedEOF
		}
		return Section(s, at, n), err
	}
	var pieces []Piece
	zero := make([]byte, hole)
	for off := int64(0); off < n; {
		buf := s.buf[:min(int64(len(s.buf)), n-off)]
		if _, err := io.ReadFull(r, buf); err != nil {
			return nil, err
		}
		for i := 0; i < len(buf); i += hole {
			b := buf[i:min(i+hole, len(buf))]
			if bytes.Equal(b, zero[:len(b)]) {
				continue
			}
			if err := use.spooled(int64(len(b))); err != nil {
				return nil, err
			}
			start := off + int64(i)
			if last := len(pieces) - 1; last >= 0 && pieces[last].Start+pieces[last].Length == start {
				pieces[last].Length += int64(len(b))
			} else if err := use.more(24); err != nil {
				return nil, err
			} else {
				pieces = append(pieces, Piece{Extent{start, int64(len(b))}, s.size})
			}
			if _, err := s.out.Write(b); err != nil {
				return nil, err
			}
			s.size += int64(len(b))
		}
		off += int64(len(buf))
	}
	return Sparse(s, n, pieces), nil
}

// flush makes everything readable.
func (s *spool) flush() error {
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("temporary file: %w", err)
	}
	return nil
}
