package qcow2

import (
	"context"
	"io"
	"math"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/deflate"
)

// deflateWindow is what readers of compressed clusters reserve: windowBits -12.
const deflateWindow = 4096

// literalBytes is the least number of bytes that a code for the bytes of p one by one
// takes: their entropy.
func literalBytes(p []byte) int {
	var counts [256]int32
	for _, b := range p {
		counts[b]++
	}
	bits, all := 0.0, float64(len(p))
	for _, n := range counts {
		if n > 0 {
			bits += float64(n) * math.Log2(all/float64(n))
		}
	}
	return int(bits / 8)
}

// shortSample is how many bytes of a cluster are tried with matches of three bytes.
const shortSample = 8 << 10

// errTooLong stops a compressor whose output is not smaller than its input.
var errTooLong = io.ErrShortWrite

// limitedBuffer takes at most a number of bytes.
type limitedBuffer struct {
	b   []byte
	max int
}

func (l *limitedBuffer) Write(p []byte) (int, error) {
	if len(l.b)+len(p) > l.max {
		return 0, errTooLong
	}
	l.b = append(l.b, p...)
	return len(p), nil
}

type deflater struct {
	out limitedBuffer
	w   *flate.Writer // with matches
	lit *flate.Writer // literals only, which need no window

	short deflate.Encoder // with matches of three bytes, too
}

// pack appends the cluster as w compresses it to dst; enc is dst if it would get
// longer than max bytes altogether.
func (d *deflater) pack(w *flate.Writer, dst, cluster []byte, max int) (enc []byte, err error) {
	d.out = limitedBuffer{b: dst, max: max}
	w.Reset(&d.out)
	_, err = w.Write(cluster)
	if err == nil {
		err = w.Close()
	}
	enc, d.out.b = d.out.b, nil
	if err == errTooLong {
		return dst, nil
	}
	return enc, err
}

// encode appends the compressed cluster to dst; ok is false if it would not be
// smaller than a cluster.
func (c *codec) encode(dst, cluster []byte) (enc []byte, ok bool, err error) {
	limit := len(dst) + c.clusterSize - 1
	if c.zstd {
		e, _ := c.zencoders.Get().(*zstd.Encoder)
		if e == nil {
			// The default window takes 12 MiB for each encoder, whatever is encoded.
			e, err = zstd.NewWriter(nil, zstd.WithWindowSize(max(c.clusterSize, zstd.MinWindowSize)), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(true),
				zstd.WithAllLitEntropyCompression(true))
			if err != nil {
				return dst, false, err
			}
		}
		enc = e.EncodeAll(cluster, dst)
		c.zencoders.Put(e)
		if len(enc) > limit {
			return dst, false, nil
		}
		return enc, true, nil
	}
	d, _ := c.deflaters.Get().(*deflater)
	if d == nil {
		d = &deflater{}
		if d.w, err = flate.NewWriterWindow(&d.out, deflateWindow); err != nil {
			return dst, false, err
		}
		if d.lit, err = flate.NewWriter(&d.out, flate.HuffmanOnly); err != nil {
			return dst, false, err
		}
	}
	defer c.deflaters.Put(d)
	if enc, err = d.pack(d.w, dst, cluster, limit); err != nil {
		return dst, false, err
	}
	// The compressor stores a block in which it finds no match as it is, and spends
	// more on short matches than they save where few byte values are in use: base64,
	// hexadecimal digits, tables of numbers.
	n := len(enc) - len(dst)
	if n == 0 {
		n = c.clusterSize
	}
	if literalBytes(cluster) < n {
		at := len(enc)
		lit, err := d.pack(d.lit, enc, cluster, at+n-1)
		if err != nil {
			return dst, false, err
		}
		if m := len(lit) - at; m > 0 {
			enc, n = append(dst, lit[at:]...), m
		}
	}
	// It does not look for matches of three bytes, of which tables of numbers are
	// full. The compressor that does is slower: a sample tells whether it is worth it.
	if n > c.clusterSize/3*2 && c.clusterSize >= 2*shortSample {
		middle := cluster[c.clusterSize/2:][:shortSample]
		at := len(enc)
		if _, ok := d.short.Append(enc, middle, n/(c.clusterSize/shortSample)*7/8); ok {
			if short, ok := d.short.Append(enc, cluster, n-1); ok {
				enc = append(dst, short[at:]...)
			}
		}
	}
	return enc, len(enc) > len(dst), nil
}

// Encode compresses one cluster.
func (im *image) Encode(dst, cluster []byte) ([]byte, bool, error) {
	if im.external {
		return dst, false, driver.Errorf(driver.ErrUnsupported, "images with an external data file hold no compressed clusters")
	}
	if int64(len(cluster)) != im.clusterSize {
		return dst, false, driver.Errorf(driver.ErrInvalid, "%d bytes given to compress, not a cluster", len(cluster))
	}
	return im.codec.encode(dst, cluster)
}

// WriteEncoded stores a compressed cluster. Several share a host cluster.
func (im *image) WriteEncoded(ctx context.Context, off int64, enc []byte) error {
	switch {
	case im.encrypted():
		// The format would store it unencrypted.
		return driver.Errorf(driver.ErrUnsupported, "Compression and encryption not supported at the same time")
	case im.external:
		return driver.Errorf(driver.ErrUnsupported, "images with an external data file hold no compressed clusters")
	case off < 0 || off&(im.clusterSize-1) != 0 || int64(len(enc)) >= im.clusterSize || len(enc) == 0:
		return driver.Errorf(driver.ErrInvalid, "%d compressed bytes at guest offset %#x are not a cluster", len(enc), off)
	case off >= im.size.Load():
		return driver.Errorf(driver.ErrRange, "guest offset %#x is beyond the end of the disk", off)
	}
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	im.bm.Mark(off, im.clusterSize)
	c := off >> im.clusterBits
	if err := im.relieve(ctx); err != nil {
		return err
	}
	if err := im.needTables(ctx, c, c+1); err != nil {
		return err
	}
	p, err := im.pend.Reserve(ctx, c, c+1)
	if err != nil {
		return err
	}
	e, err := im.entry(ctx, c)
	if err == nil && (im.kind(e) != kindUnallocated && im.kind(e) != kindZeroPlain) {
		err = driver.Errorf(driver.ErrInvalid, "the cluster at guest offset %#x is already allocated", off)
	}
	var host int64
	if err == nil {
		host, err = im.allocBytes(ctx, int64(len(enc)))
	}
	if err != nil {
		im.pend.Remove(p)
		return err
	}
	im.events.Raise("write_compressed")
	_, err = im.file.WriteAt(ctx, enc, host)
	if err == nil {
		im.events.Raise("l2_update_compressed")
		_, err = im.editEntries(ctx, c, c+1, discardNever, func(_ int64, old ondisk.L2Entry) (ondisk.L2Entry, bool) {
			return ondisk.L2Entry{Desc: ondisk.EncodeCompressed(host, int64(len(enc)), im.clusterBits)}, true
		})
	}
	if err != nil {
		im.freeNow(ctx, host, int64(len(enc)))
	}
	im.pend.Remove(p)
	return err
}
