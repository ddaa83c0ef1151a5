package ops

import (
	"context"
	"hash"
	"io"
	"runtime"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

// Checksum adds the whole content of a disk to h: the same digest for every
// format and layout. Reading runs ahead of hashing. An error is that of the first place
// on the disk that cannot be read.
func Checksum(ctx context.Context, img *block.Image, h hash.Hash, progress ProgressFunc) error {
	ahead := max(2, runtime.GOMAXPROCS(0))
	c := &checksum{img: img, h: h, meter: newMeter(progress, "checksum", img.Size()), zeroes: make([]byte, 64<<10)}
	return inOrder(ctx, ahead+1, ahead, c.plan, c.add)
}

// checksum is the state of a Checksum.
type checksum struct {
	img    *block.Image
	h      hash.Hash // used in turn
	order  turns
	meter  *meter
	zeroes []byte
}

// hashPart is a range of the disk that is read at once, or zeroes.
type hashPart struct {
	seq    uint64
	off, n int64
	zero   bool
}

// plan hands out the parts of the disk in order.
func (c *checksum) plan(ctx context.Context, out func(hashPart) error) error {
	var known lastData
	size := c.img.Size()
	for p := (hashPart{}); p.off < size; p.seq, p.off = p.seq+1, p.off+p.n {
		st, ok := known.at(p.off)
		if !ok {
			var err error
			if st, err = c.img.Status(ctx, p.off, size-p.off, nil); err != nil {
				return err
			}
			known.note(p.off, st)
		}
		if p.n, p.zero = st.Length, st.Zero; !p.zero {
			p.n = min(p.n, chunkSize)
		}
		if err := out(p); err != nil {
			return err
		}
	}
	return nil
}

// add reads a part and adds it to the digest when those before it are in.
func (c *checksum) add(ctx context.Context, p hashPart) error {
	var buf []byte
	if !p.zero {
		buf = bufpool.Get(int(p.n))
		defer bufpool.Put(buf)
		if _, err := c.img.ReadAt(ctx, buf, p.off); err != nil && err != io.EOF {
			return err
		}
	}
	if err := c.order.wait(ctx, p.seq); err != nil {
		return err
	}
	c.h.Write(buf)
	for n := p.n; p.zero && n > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		k := min(n, int64(len(c.zeroes)))
		c.h.Write(c.zeroes[:k])
		n -= k
	}
	c.order.done(p.seq)
	c.meter.set(p.off + p.n)
	return nil
}
