package dmg

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"strconv"

	"github.com/cowl-disk/cowl/block/driver"
)

func hex(v uint32) string { return strconv.FormatUint(uint64(v), 16) }

// section is a part of a file as a stream.
type section struct {
	ctx      context.Context
	file     driver.Storage
	off, end int64
}

func (s *section) Read(p []byte) (int, error) {
	if s.off >= s.end {
		return 0, io.EOF
	}
	n, err := s.file.ReadAt(s.ctx, p[:min(int64(len(p)), s.end-s.off)], s.off)
	s.off += int64(n)
	if err == io.EOF && (n > 0 || s.off < s.end) {
		err = nil
		if n == 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

const streamBuffer = 64 << 10

// readList collects the tables of a property list: what is in <data> elements, in
// base64. Whose elements they are does not matter: a table is told by its magic.
func (r *runs) readList(ctx context.Context, file driver.Storage, off, n int64) error {
	if n == 0 || n > maxList {
		return driver.Errorf(driver.ErrBudget, "a property list of %d bytes is too large or too small, at most %d are read", n, maxList)
	}
	in := bufio.NewReaderSize(&section{ctx, file, off, off + n}, streamBuffer)
	for {
		err := toTag(in, "data>")
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = r.readData(in)
		}
		if err != nil {
			return err
		}
	}
}

// toTag reads up to the next "<" that the rest of a tag follows. io.EOF: there is none.
func toTag(in *bufio.Reader, rest string) error {
	for {
		for {
			if _, err := in.ReadSlice('<'); err == nil {
				break
			} else if !errors.Is(err, bufio.ErrBufferFull) {
				return err
			}
		}
		next, err := in.Peek(len(rest))
		if string(next) == rest {
			_, _ = in.Discard(len(rest))
			return nil
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
}

// readData decodes the text of a <data> element. What is not a base64 character is
// skipped.
func (r *runs) readData(in *bufio.Reader) error {
	t := tableReader{to: r}
	var text [4096]byte // a multiple of four characters
	var out [3072]byte
	n := 0
	flush := func() error {
		m, err := base64.RawStdEncoding.Decode(out[:], text[:n])
		n = 0
		if err != nil {
			return driver.Errorf(driver.ErrCorrupt, "the property list has a damaged <data> element: %w", err)
		}
		return t.write(out[:m])
	}
	for {
		c, err := in.ReadByte()
		if err == io.EOF {
			return driver.Errorf(driver.ErrCorrupt, "the property list ends in a <data> element")
		}
		if err != nil {
			return err
		}
		switch {
		case c == '<':
			return flush()
		case c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/':
			text[n] = c
			if n++; n == len(text) {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
}

// readFork collects the tables of a resource fork: those of its resources that are
// tables. The map behind the resources is not needed.
func (r *runs) readFork(ctx context.Context, file driver.Storage, off, n int64) error {
	bad := func() error {
		return driver.Errorf(driver.ErrCorrupt, "the resource fork at offset %d is damaged", off)
	}
	if n > maxList {
		return driver.Errorf(driver.ErrBudget, "a resource fork of %d bytes is too large, at most %d are read", n, maxList)
	}
	head := make([]byte, 16)
	if _, err := io.ReadFull(&section{ctx, file, off, off + n}, head); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF {
			return bad()
		}
		return err
	}
	start, length := int64(be.Uint32(head)), int64(be.Uint32(head[8:]))
	if length == 0 || start+length > n {
		return bad()
	}
	in := bufio.NewReaderSize(&section{ctx, file, off + start, off + start + length}, streamBuffer)
	for left := length; left > 0; {
		var b [4]byte
		if _, err := io.ReadFull(in, b[:]); err != nil {
			return bad()
		}
		size := int64(be.Uint32(b[:]))
		if left -= 4; size == 0 || size > left {
			return bad()
		}
		left -= size
		t := tableReader{to: r}
		if _, err := io.CopyN(writer(t.write), in, size); err != nil {
			if err == io.EOF {
				return bad()
			}
			return err
		}
	}
	return nil
}

// writer makes an io.Writer of a function.
type writer func(p []byte) error

func (w writer) Write(p []byte) (int, error) { return len(p), w(p) }
