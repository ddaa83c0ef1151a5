package chunks

import (
	"container/list"
	"context"
	"errors"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/resources"
)

// DefaultCache is how many bytes of decoded chunks a Reader keeps.
const DefaultCache = 16 << 20

// Chunk is a range of the guest disk that is decoded as a whole. All sizes are in
// bytes. No two chunks of a disk start at the same offset.
type Chunk struct {
	Offset, Length int64 // of the guest disk
	// The encoded bytes are within Size bytes at Host of File. A format whose chunks
	// say themselves how long they are gives the most that one may take.
	File       driver.Storage
	Host, Size int64
	// Codec is for the decoder: which encoding the chunk has.
	Codec uint32
}

// Decoder decodes a chunk: it fills dst, which has Chunk.Length bytes, from in. It may
// be called by several goroutines at once. It keeps neither dst nor in.
type Decoder func(dst []byte, in *Input, c Chunk) error

// Config describes a Reader.
type Config struct {
	Decode Decoder
	Budget *driver.Budget
	// Cache is how many bytes of decoded chunks are kept, at least one chunk; 0 is
	// DefaultCache.
	Cache int64
}

// Reader reads guest bytes that are in chunks. It is safe for concurrent use.
type Reader struct {
	decode Decoder
	budget *driver.Budget
	limit  int64

	mu      sync.Mutex
	entries map[int64]*entry // by Chunk.Offset
	lru     list.List        // of decoded *entry, the one used last in front
	held    int64            // bytes of decoded chunks
}

// entry is a chunk that is decoded, or is being decoded.
type entry struct {
	offset int64
	length int64
	done   chan struct{} // closed when buf or err is set
	buf    []byte
	err    error
	users  int           // under Reader.mu
	at     *list.Element // nil: not in the list of decoded chunks
}

// NewReader returns a reader without chunks in its cache.
func NewReader(c Config) *Reader {
	r := &Reader{decode: c.Decode, budget: c.Budget, limit: c.Cache, entries: map[int64]*entry{}}
	if r.limit <= 0 {
		r.limit = DefaultCache
	}
	return r
}

// Close forgets all chunks. No call of ReadAt may be under way.
func (r *Reader) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shrink(0)
}

// ReadAt fills p with the guest bytes at off. find returns the chunk that holds an
// offset; all offsets of the range are in chunks. Large ranges are decoded by several
// goroutines, so that find must be safe for concurrent use.
func (r *Reader) ReadAt(ctx context.Context, p []byte, off int64, find func(ctx context.Context, off int64) (Chunk, error)) error {
	c, in, err := locate(ctx, find, off)
	if err != nil {
		return err
	}
	if int64(len(p)) <= c.Length-in {
		return r.read(ctx, c, p, in)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(resources.Processors())
	for {
		q, chunk, at := p[:min(int64(len(p)), c.Length-in)], c, in
		g.Go(func() error { return r.read(gctx, chunk, q, at) })
		p, off = p[len(q):], off+int64(len(q))
		if len(p) == 0 {
			return g.Wait()
		}
		if err = gctx.Err(); err == nil {
			c, in, err = locate(gctx, find, off)
		}
		if err != nil {
			if first := g.Wait(); first != nil {
				err = first
			}
			return err
		}
	}
}

// locate finds the chunk of off and where in it off is.
func locate(ctx context.Context, find func(context.Context, int64) (Chunk, error), off int64) (Chunk, int64, error) {
	c, err := find(ctx, off)
	if err == nil && (off < c.Offset || off-c.Offset >= c.Length || c.Size < 0 || c.Host < 0) {
		err = driver.Errorf(driver.ErrCorrupt, "guest offset %#x is not in the chunk of %d bytes at %#x", off, c.Length, c.Offset)
	}
	return c, off - c.Offset, err
}

// read fills p from byte in of a chunk.
func (r *Reader) read(ctx context.Context, c Chunk, p []byte, in int64) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.mu.Lock()
		e := r.entries[c.Offset]
		if e == nil && int64(len(p)) == c.Length {
			// All of it is wanted: it goes where it is wanted.
			r.mu.Unlock()
			return r.decodeChunk(ctx, p, c)
		}
		first := e == nil
		if first {
			e = &entry{offset: c.Offset, length: c.Length, done: make(chan struct{})}
			r.entries[c.Offset] = e
		} else if e.at != nil {
			r.lru.MoveToFront(e.at)
		}
		e.users++
		r.mu.Unlock()

		if first {
			r.fill(ctx, c, e)
		}
		var err error
		select {
		case <-e.done:
			if err = e.err; err == nil {
				copy(p, e.buf[in:])
			}
		case <-ctx.Done():
			err = ctx.Err()
		}
		r.release(e)
		// Who decoded for us may have given up for reasons of its own.
		if !first && ctx.Err() == nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
			continue
		}
		return err
	}
}

// fill decodes the chunk of e. Failures are not kept: the next reader tries again.
func (r *Reader) fill(ctx context.Context, c Chunk, e *entry) {
	defer close(e.done)
	r.mu.Lock()
	r.shrink(max(0, r.limit-c.Length))
	r.mu.Unlock()
	e.err = r.budget.Scratch("a decoded chunk", c.Length)
	var buf []byte
	if e.err == nil {
		buf = bufpool.Get(int(c.Length))
		if e.err = r.decodeChunk(ctx, buf, c); e.err != nil {
			r.budget.Release(c.Length)
			bufpool.Put(buf)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.err != nil {
		delete(r.entries, e.offset)
		return
	}
	e.buf = buf
	e.at = r.lru.PushFront(e)
	r.held += c.Length
}

// release ends the use of an entry.
func (r *Reader) release(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.users--
	r.free(e)
	if r.lru.Len() > 1 {
		r.shrink(r.limit)
	}
}

// shrink drops the chunks used longest ago until no more than limit bytes are kept. mu
// is held.
func (r *Reader) shrink(limit int64) {
	for r.held > limit && r.lru.Len() > 0 {
		e := r.lru.Remove(r.lru.Back()).(*entry)
		e.at = nil
		delete(r.entries, e.offset)
		r.held -= e.length
		r.free(e)
	}
}

// free gives back the buffer of an entry that is neither used nor reachable. mu is
// held.
func (r *Reader) free(e *entry) {
	if e.users > 0 || e.at != nil || e.buf == nil {
		return
	}
	bufpool.Put(e.buf)
	e.buf = nil
	r.budget.Release(e.length)
}

// decodeChunk reads and decodes a chunk into dst.
func (r *Reader) decodeChunk(ctx context.Context, dst []byte, c Chunk) error {
	in := newInput(ctx, c)
	defer in.close()
	err := r.decode(dst, in, c)
	switch {
	case err == nil:
		return nil
	case in.failed != nil && in.failed != io.ErrUnexpectedEOF:
		return in.failed // the file could not be read: that says nothing of the image
	case in.failed != nil:
		return driver.Errorf(driver.ErrCorrupt, "the chunk of guest offset %#x (%d bytes at offset %#x of the file) reaches beyond the end of the file", c.Offset, c.Size, c.Host)
	}
	return driver.Errorf(driver.ErrCorrupt, "cannot decode the chunk of guest offset %#x (%d bytes at offset %#x of the file): %w", c.Offset, c.Size, c.Host, err)
}
