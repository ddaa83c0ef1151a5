package qcow2

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// codec compresses and decompresses clusters (section "Compressed Clusters
// Descriptor"). It is safe for concurrent use.
type codec struct {
	zstd        bool
	clusterSize int

	inflaters, deflaters, zdecoders, zencoders sync.Pool

	// last keeps the cluster that was decoded last for reads of parts of it.
	lastMu  sync.Mutex
	lastKey uint64 // L2 entry, 0: none
	last    []byte
}

func (c *codec) init(g *geometry) {
	c.zstd = g.compression == ondisk.CompressionZstd
	c.clusterSize = int(g.clusterSize)
}

// cached copies from the cluster decoded last, if it is that of key.
func (c *codec) cached(key uint64, p []byte, in int64) bool {
	c.lastMu.Lock()
	defer c.lastMu.Unlock()
	if c.lastKey != key {
		return false
	}
	copy(p, c.last[in:])
	return true
}

// keep remembers a decoded cluster and returns a buffer to give back.
func (c *codec) keep(key uint64, buf []byte) []byte {
	c.lastMu.Lock()
	defer c.lastMu.Unlock()
	old := c.last
	c.lastKey, c.last = key, buf
	return old
}

// forget drops the remembered cluster: its place in the file may be used anew.
func (c *codec) forget() {
	c.lastMu.Lock()
	c.lastKey = 0
	c.lastMu.Unlock()
}

// decode fills p, one cluster, from enc, which may be followed by other bytes.
func (c *codec) decode(p, enc []byte) error {
	if c.zstd {
		return c.decodeZstd(p, enc)
	}
	type inflater struct {
		src bytes.Reader
		r   io.ReadCloser
	}
	z, _ := c.inflaters.Get().(*inflater)
	if z == nil {
		z = &inflater{}
		z.r = flate.NewReader(&z.src)
	}
	z.src.Reset(enc)
	if err := z.r.(flate.Resetter).Reset(&z.src, nil); err != nil {
		return err
	}
	_, err := io.ReadFull(z.r, p)
	z.src.Reset(nil)
	c.inflaters.Put(z)
	return err
}

func (c *codec) decodeZstd(p, enc []byte) error {
	d, _ := c.zdecoders.Get().(*zstd.Decoder)
	if d == nil {
		var err error
		d, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(uint64(max(c.clusterSize, 1<<20))),
			zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return err
		}
	}
	defer c.zdecoders.Put(d)
	for out := p[:0:len(p)]; ; {
		n, err := zstdFrame(enc)
		if err != nil {
			return err
		}
		if out, err = d.DecodeAll(enc[:n], out); err != nil {
			return err
		}
		if len(out) == len(p) {
			return nil
		}
		enc = enc[n:]
	}
}

// zstdFrame returns the length of the frame at the start of b: the decoder wants
// to be given whole frames and the descriptor counts whole sectors.
func zstdFrame(b []byte) (int, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return 0, err
	}
	n := int64(h.HeaderSize)
	if h.Skippable {
		n += int64(h.SkippableSize)
		if n > int64(len(b)) {
			return 0, io.ErrUnexpectedEOF
		}
		return int(n), nil
	}
	const blockHeader, blockRLE = 3, 1
	for last := false; !last; {
		if n+blockHeader > int64(len(b)) {
			return 0, io.ErrUnexpectedEOF
		}
		v := uint32(b[n]) | uint32(b[n+1])<<8 | uint32(b[n+2])<<16
		last = v&1 != 0
		size := int64(v >> 3)
		if v>>1&3 == blockRLE {
			size = 1
		}
		n += blockHeader + size
	}
	if h.HasCheckSum {
		n += 4
	}
	if n > int64(len(b)) {
		return 0, io.ErrUnexpectedEOF
	}
	return int(n), nil
}

// ReadEncoded reads guest bytes of compressed clusters.
func (im *image) ReadEncoded(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		in := off & (im.clusterSize - 1)
		n := min(int64(len(p)), im.clusterSize-in)
		if err := im.readCompressed(ctx, p[:n], off>>im.clusterBits, in); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// readCompressed reads len(p) bytes from byte in of guest cluster c.
func (im *image) readCompressed(ctx context.Context, p []byte, c, in int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e, err := im.entry(ctx, c)
	if err != nil {
		return err
	}
	if im.kind(e) != kindCompressed {
		return im.readPlain(ctx, p, c, in)
	}
	if int64(len(p)) < im.clusterSize && im.codec.cached(e.Desc, p, in) {
		return nil
	}
	d := ondisk.DecodeCompressed(e.Desc, im.clusterBits)
	if d.Offset >= im.file.Size() {
		return driver.Errorf(driver.ErrCorrupt, "compressed cluster at guest offset %#x lies beyond the end of the file (offset %#x)", c<<im.clusterBits, d.Offset)
	}
	enc := bufpool.Get(int(min(d.Size, im.file.Size()-d.Offset)))
	defer bufpool.Put(enc)
	im.events.Raise("read_compressed")
	if err := im.readPadded(ctx, im.file, enc, d.Offset); err != nil {
		return err
	}
	whole := p
	if int64(len(p)) < im.clusterSize {
		whole = bufpool.Get(int(im.clusterSize))
	}
	if err := im.codec.decode(whole, enc); err != nil {
		if int64(len(p)) < im.clusterSize {
			bufpool.Put(whole)
		}
		return driver.Errorf(driver.ErrCorrupt, "cannot decompress cluster at guest offset %#x (file offset %#x): %w", c<<im.clusterBits, d.Offset, err)
	}
	if int64(len(p)) < im.clusterSize {
		copy(p, whole[in:])
		if old := im.codec.keep(e.Desc, whole); old != nil {
			bufpool.Put(old)
		}
	}
	return nil
}

// readPlain reads a cluster that was compressed when it was mapped and has been
// rewritten or discarded since.
func (im *image) readPlain(ctx context.Context, p []byte, c, in int64) error {
	for off := c<<im.clusterBits + in; len(p) > 0; {
		x, err := im.Map(ctx, off, int64(len(p)))
		if err != nil {
			return err
		}
		switch x.Kind {
		case driver.ExtentData:
			err = im.readPadded(ctx, x.Child, p[:x.Length], x.HostOffset)
		case driver.ExtentZero:
			clear(p[:x.Length])
		case driver.ExtentUnallocated:
			if im.hasBacking() {
				err = fmt.Errorf("guest offset %#x changed while it was read", off)
			}
			clear(p[:x.Length])
		case driver.ExtentEncoded:
			return im.readCompressed(ctx, p, c, off&(im.clusterSize-1))
		default:
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		p, off = p[x.Length:], off+x.Length
	}
	return nil
}

// entry returns the L2 entry of guest cluster c.
func (im *image) entry(ctx context.Context, c int64) (ondisk.L2Entry, error) {
	var e ondisk.L2Entry
	// The L1 entry is checked here: the cache does not know it.
	if err := im.needSlices(ctx, c, c+1); err != nil {
		return e, err
	}
	var i int
	at := func() (off int64) { off, i = im.sliceOffset(c); return off }
	err := im.cache.View(ctx, im.file, at, func(s *clustertable.Slice) {
		if s != nil {
			e = ondisk.LoadL2(s.Data, i, im.extended)
		}
	})
	if err != nil {
		return e, err
	}
	if what := im.badEntry(e); what != "" {
		return e, im.entryError(ctx, c, e, what)
	}
	return e, nil
}
