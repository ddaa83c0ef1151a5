package ops

import (
	"context"
	"hash"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

// Checksum adds the whole content of a disk to h: the same digest for every
// format and layout. Reading runs ahead of hashing.
func Checksum(ctx context.Context, img *block.Image, h hash.Hash, progress ProgressFunc) error {
	type result struct {
		buf []byte
		err error
	}
	type part struct {
		off, n int64
		read   chan result // gets one; nil for zeroes
	}
	size := img.Size()
	m := newMeter(progress, "checksum", size)
	ahead := max(2, runtime.GOMAXPROCS(0))
	parts := make(chan part, ahead)
	g, ctx := errgroup.WithContext(ctx)
	// reads is waited for only when the goroutine that adds to it is gone.
	reads := errgroup.Group{}
	reads.SetLimit(ahead)
	g.Go(func() error {
		defer close(parts)
		var known lastData
		for off := int64(0); off < size; {
			st, ok := known.at(off)
			if !ok {
				var err error
				if st, err = img.Status(ctx, off, size-off, nil); err != nil {
					return err
				}
				known.note(off, st)
			}
			p := part{off: off, n: st.Length}
			if !st.Zero {
				p.n = min(p.n, chunkSize)
				p.read = make(chan result, 1)
				reads.Go(func() error {
					b := bufpool.Get(int(p.n))
					if _, err := img.ReadAt(ctx, b, p.off); err != nil && err != io.EOF {
						bufpool.Put(b)
						p.read <- result{err: err}
						return nil
					}
					p.read <- result{buf: b}
					return nil
				})
			}
			select {
			case parts <- p:
			case <-ctx.Done():
				return ctx.Err()
			}
			off += p.n
		}
		return nil
	})
	g.Go(func() error {
		zeroes := make([]byte, 64<<10)
		for p := range parts {
			if p.read == nil {
				for n := p.n; n > 0; {
					k := min(n, int64(len(zeroes)))
					h.Write(zeroes[:k])
					n -= k
					if err := ctx.Err(); err != nil {
						return err
					}
				}
			} else {
				r := <-p.read
				if r.err != nil {
					return r.err
				}
				h.Write(r.buf)
				bufpool.Put(r.buf)
			}
			m.set(p.off + p.n)
		}
		return nil
	})
	err := g.Wait()
	_ = reads.Wait() // an error of a read was returned with its part
	return err
}
