package nfs

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/cowl-disk/cowl/internal/message"
	"github.com/cowl-disk/cowl/internal/oncrpc"
)

const (
	// pieces is how many parts of one read or write are under way at once.
	pieces = 8
	// shares is how many changes of a file go on at once.
	shares = 64
)

// File is an open file. Its methods may be called by several goroutines at once.
type File struct {
	c *Client
	h *handle
	// order has one token for each change of the file that goes on: all of them for
	// those that no other may go on beside.
	order chan struct{}
	// committing has the token of the goroutine that commits. It is taken before order.
	committing chan struct{}

	mu       sync.Mutex
	kept     []*change // not committed, in the order in which they were asked for
	under    []*change // those of them that the server has not answered yet
	bytes    int64     // of kept
	verifier verifier  // that the server had last
	known    bool      // verifier is
	doubt    bool      // all that is kept has to be written again, whatever the verifier
	failed   error     // of a write that nobody waited for; under doubt
	loose    bool      // see Loosely; changed with the token of committing
	loosely  int64     // how many bytes may be written under loose
	passed   int64     // and how many were
	wrote    bool      // under loose: something that is not committed, by the server that verifier is of
	behind   chan struct{}
	stop     context.CancelFunc
	ctx      context.Context // of commits that nobody waits for
	buffers  sync.Pool       // of *[]byte, as long as the longest write
	sends    sync.WaitGroup
}

func newFile(c *Client, h *handle) *File {
	f := &File{c: c, h: h, order: make(chan struct{}, shares), committing: make(chan struct{}, 1)}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// take takes n tokens.
func take(ctx context.Context, tokens chan struct{}, n int) error {
	for i := range n {
		select {
		case tokens <- struct{}{}:
		case <-ctx.Done():
			give(tokens, i)
			return ctx.Err()
		}
	}
	return nil
}

func give(tokens chan struct{}, n int) {
	for range n {
		<-tokens
	}
}

// split calls f for parts of n bytes, several at once, and returns the first error.
func split(n, part int, f func(from, to int) error) error {
	if n <= part {
		return f(0, n)
	}
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed error
		slots  = make(chan struct{}, pieces)
	)
	for from := 0; from < n; from += part {
		slots <- struct{}{}
		mu.Lock()
		stop := failed != nil
		mu.Unlock()
		if stop {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(from, min(from+part, n)); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if failed == nil {
					failed = err
				}
			}
		})
	}
	wg.Wait()
	return failed
}

// Attr asks for the file's attributes.
func (f *File) Attr(ctx context.Context) (Attr, error) { return f.c.p.getattr(ctx, f.h) }

// ReadAt reads len(p) bytes from offset off, or up to the end of the file: then the error
// is io.EOF. n is meaningless with other errors.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	part, _ := f.c.p.limits()
	before := f.pin(off, int64(len(p)))
	defer f.unpin(before)
	var mu sync.Mutex
	end := len(p)
	err = split(len(p), part, func(from, to int) error {
		for from < to {
			got, eof, err := f.c.p.read(ctx, f.h, p[from:to], off+int64(from))
			if err != nil {
				return message.Errorf(nil, "reading %d bytes at offset %d: %w", to-from, off+int64(from), f.c.explain(err))
			}
			from += got
			if from < to && (eof || got == 0) {
				mu.Lock()
				end = min(end, from)
				mu.Unlock()
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	end = f.overlay(before, p, end, off)
	if end < len(p) {
		return end, io.EOF
	}
	return end, nil
}

// WriteAt writes p at offset off. It does not wait for the server as long as there is room
// for what is under way: if a write fails, the next ones and Sync do, until a Sync, which
// tries it again, succeeds. What was written is durable after Sync; reads see it at once.
func (f *File) WriteAt(ctx context.Context, p []byte, off int64) error {
	_, part := f.c.p.limits()
	return split(len(p), part, func(from, to int) error {
		if err := f.room(ctx, to-from); err != nil {
			return err
		}
		if err := take(ctx, f.order, 1); err != nil {
			return err
		}
		k := &change{off: off + int64(from), n: int64(to - from), payload: f.payload(p[from:to])}
		return f.behindhand(ctx, k)
	})
}

// payload copies data, with the padding of XDR.
func (f *File) payload(p []byte) []byte {
	_, most := f.c.p.limits()
	n := len(p) + oncrpc.Padding(len(p))
	if n < most/2 {
		b := make([]byte, n)
		copy(b, p)
		return b
	}
	b, _ := f.buffers.Get().(*[]byte)
	if b == nil {
		b = new([]byte)
		*b = make([]byte, most)
	}
	copy(*b, p)
	clear((*b)[len(p):n])
	return (*b)[:n]
}

// recycle gives the payload of a change back that is durable.
func (f *File) recycle(k *change) {
	if _, most := f.c.p.limits(); cap(k.payload) == most && k.users == 0 {
		b := k.payload[:most]
		f.buffers.Put(&b)
	}
}

// send does a change on the server.
func (f *File) send(ctx context.Context, k *change) error {
	if k.payload == nil {
		var err error
		if k.verifier, err = f.current(ctx); err != nil {
			return err
		}
		return f.c.p.deallocate(ctx, f.h, k.off, k.n)
	}
	for done := int64(0); done < k.n; {
		rest := k.payload[done:]
		if done%4 != 0 || len(rest)%4 != 0 { // the padding is that of what is left
			rest = append(append([]byte(nil), k.payload[done:k.n]...), make([]byte, oncrpc.Padding(int(k.n-done)))...)
		}
		n, v, _, err := f.c.p.write(ctx, f.h, rest, int(k.n-done), k.off+done)
		if err != nil {
			return message.Errorf(nil, "writing %d bytes at offset %d: %w", k.n-done, k.off+done, f.c.explain(err))
		}
		if done > 0 && v != k.verifier {
			done = 0 // the server was restarted between two parts
			k.verifier = v
			continue
		}
		k.verifier = v
		done += int64(n)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.loose { // pass compares it
		f.verifier, f.known = k.verifier, true
	}
	return nil
}

// current is the verifier of the server before a change whose answer has none.
func (f *File) current(ctx context.Context) (verifier, error) {
	f.mu.Lock()
	v, known := f.verifier, f.known
	f.mu.Unlock()
	if known {
		return v, nil
	}
	v, err := f.c.p.commit(ctx, f.h)
	if err != nil {
		return v, err
	}
	f.mu.Lock()
	f.verifier, f.known = v, true
	f.mu.Unlock()
	return v, nil
}

// Deallocate makes a range read as zeroes and gives its room back (RFC 7862, section 15.4).
// Servers of older versions cannot: the error is of the kind errors.ErrUnsupported.
func (f *File) Deallocate(ctx context.Context, off, n int64) error {
	if err := f.room(ctx, 0); err != nil {
		return err
	}
	if err := take(ctx, f.order, 1); err != nil {
		return err
	}
	defer give(f.order, 1)
	k := &change{off: off, n: n, done: make(chan struct{})}
	if err := f.begin(ctx, k); err != nil {
		return err
	}
	f.mu.Unlock()
	err := f.send(ctx, k)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil && f.loose:
		err = f.pass(k)
	case err == nil:
		f.kept = append(f.kept, k)
		f.bytes += k.cost()
	}
	f.end(k)
	return err
}

// NextData returns where the next data is, from off on, and NextHole where the next hole
// is, which there is one of at the end of the file (RFC 7862, section 15.11). eof: there is
// no data from off on. Servers of older versions cannot tell: the error is of the kind
// errors.ErrUnsupported.
func (f *File) NextData(ctx context.Context, off int64) (next int64, eof bool, err error) {
	return f.seek(ctx, off, false)
}

// NextHole is described at NextData.
func (f *File) NextHole(ctx context.Context, off int64) (next int64, eof bool, err error) {
	return f.seek(ctx, off, true)
}

func (f *File) seek(ctx context.Context, off int64, hole bool) (next int64, eof bool, err error) {
	// A server that was restarted does not know of what is kept.
	if err := f.Sync(ctx); err != nil {
		return 0, false, err
	}
	return f.c.p.seek(ctx, f.h, off, hole)
}

// Resize sets the length. Bytes that appear are zeroes.
func (f *File) Resize(ctx context.Context, size int64) error {
	if err := take(ctx, f.committing, 1); err != nil {
		return err
	}
	defer give(f.committing, 1)
	if err := take(ctx, f.order, shares); err != nil {
		return err
	}
	defer give(f.order, shares)
	// What is kept must not come back behind the end.
	if err := f.settle(ctx); err != nil {
		return err
	}
	return f.c.explain(f.c.p.resize(ctx, f.h, size))
}

// Close waits for writes that are under way, and lets the file go. What was not committed
// may be lost later; what is kept is written again if the server was restarted meanwhile.
func (f *File) Close(ctx context.Context) error {
	err := f.wait(ctx, f.all())
	if err == nil && ctx.Err() == nil && f.restarted() {
		err = f.Sync(ctx)
	}
	f.mu.Lock()
	err = errors.Join(err, f.failed)
	f.mu.Unlock()
	if ctx.Err() != nil {
		err = nil // nobody waits for them
	}
	f.stop()
	f.sends.Wait()
	f.mu.Lock()
	behind := f.behind
	f.mu.Unlock()
	if behind != nil {
		<-behind
	}
	return errors.Join(err, f.c.p.release(ctx, f.h))
}
