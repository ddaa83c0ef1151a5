package chunks

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/internal/bufpool"
)

// window is how much of the encoded bytes is read at a time: most chunks as a whole.
const window = 256 << 10

// Input is the encoded bytes of a chunk, in order. It implements io.Reader and
// io.ByteReader. After the last byte it returns io.EOF; where the file ends before the
// chunk does, io.ErrUnexpectedEOF.
type Input struct {
	ctx    context.Context
	c      Chunk
	buf    []byte // what was read and is not consumed yet is buf[r:]
	pooled []byte // what buf is part of
	r      int
	next   int64 // position in the chunk of what follows buf
	end    int64 // where the chunk ends
	failed error // of reading the file
}

func newInput(ctx context.Context, c Chunk) *Input { return &Input{ctx: ctx, c: c, end: c.Size} }

func (in *Input) close() {
	bufpool.Put(in.pooled)
	in.pooled, in.buf = nil, nil
}

// Rest returns how many bytes are left, if the file has them all.
func (in *Input) Rest() int64 { return in.end - in.next + int64(len(in.buf)-in.r) }

// Limit makes the input end after n more bytes, if it would not end before.
func (in *Input) Limit(n int64) {
	if n < in.Rest() {
		in.end = in.next - int64(len(in.buf)-in.r) + max(n, 0)
		if over := in.next - in.end; over > 0 {
			in.buf = in.buf[:len(in.buf)-int(over)]
			in.next = in.end
		}
	}
}

// fill reads the next bytes of the file when all that was read is consumed.
func (in *Input) fill() error {
	if in.failed != nil {
		return in.failed
	}
	if in.next >= in.end {
		return io.EOF
	}
	if in.pooled == nil {
		in.pooled = bufpool.Get(int(min(in.end, window)))
	}
	return in.read(in.pooled[:min(in.end-in.next, int64(len(in.pooled)))])
}

// read reads the next bytes of the chunk into p, which becomes the window. A chunk may
// be said to be longer than the file if what it really has is not.
func (in *Input) read(p []byte) error {
	n, err := in.c.File.ReadAt(in.ctx, p, in.c.Host+in.next)
	if n == 0 || err != nil && err != io.EOF {
		in.failed = err
		if err == nil || err == io.EOF {
			in.failed = io.ErrUnexpectedEOF
		}
		return in.failed
	}
	in.buf, in.r, in.next = p[:n], 0, in.next+int64(n)
	return nil
}

// Read implements io.Reader.
func (in *Input) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if in.r == len(in.buf) {
		if err := in.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.buf[in.r:])
	in.r += n
	return n, nil
}

// ReadByte implements io.ByteReader.
func (in *Input) ReadByte() (byte, error) {
	if in.r == len(in.buf) {
		if err := in.fill(); err != nil {
			return 0, err
		}
	}
	in.r++
	return in.buf[in.r-1], nil
}

// All returns all bytes that are left, in memory. They are valid until the decoder
// returns. The format has checked Chunk.Size, which bounds the memory.
func (in *Input) All() ([]byte, error) {
	rest := in.Rest()
	if int64(len(in.buf)-in.r) == rest {
		p := in.buf[in.r:]
		in.r = len(in.buf)
		return p, nil
	}
	if in.r == len(in.buf) && rest <= window {
		if err := in.fill(); err != nil {
			return nil, err
		}
		if int64(len(in.buf)) == rest {
			in.r = len(in.buf)
			return in.buf, nil
		}
		in.failed = io.ErrUnexpectedEOF
		return nil, in.failed
	}
	p := bufpool.Get(int(rest))
	if _, err := io.ReadFull(in, p); err != nil {
		bufpool.Put(p)
		if in.failed == nil {
			in.failed = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	bufpool.Put(in.pooled)
	in.pooled, in.buf, in.r = p, p, len(p)
	return p, nil
}
