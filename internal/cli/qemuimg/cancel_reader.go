package qemuimg

import (
	"context"
	"io"
)

// cancelReader reads from r until ctx is done, even while r waits for data that
// never comes. After that it does not touch the buffers of its caller.
type cancelReader struct {
	ctx    context.Context
	chunks chan chunk
	rest   []byte
	err    error
}

type chunk struct {
	data []byte
	err  error
}

func newCancelReader(ctx context.Context, r io.Reader) io.Reader {
	c := &cancelReader{ctx: ctx, chunks: make(chan chunk, 1)}
	go func() {
		for {
			buf := make([]byte, 1<<20)
			n, err := r.Read(buf)
			select {
			case c.chunks <- chunk{buf[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return c
}

func (c *cancelReader) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		select {
		case got := <-c.chunks:
			c.rest, c.err = got.data, got.err
		case <-c.ctx.Done():
			return 0, c.ctx.Err()
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}
