package codec

import (
	"github.com/klauspost/compress/zstd"

	"github.com/cowl-disk/cowl/internal/deflate"
	ownzstd "github.com/cowl-disk/cowl/internal/zstd"
)

// Encode appends the compressed cluster to dst; ok is false if it would not be
// smaller than a cluster.
func (c *Codec) Encode(dst, cluster []byte) (enc []byte, ok bool, err error) {
	switch {
	case c.zstd && c.clusterSize > ownzstd.MaxSize:
		return c.encodeLarge(dst, cluster)
	case c.zstd:
		e, _ := c.zencoders.Get().(*ownzstd.Encoder)
		if e == nil {
			e = new(ownzstd.Encoder)
		}
		defer c.zencoders.Put(e)
		enc, ok = e.Append(dst, cluster, c.clusterSize-1)
		return enc, ok, nil
	}
	e, _ := c.deflaters.Get().(*deflate.Encoder)
	if e == nil {
		e = new(deflate.Encoder)
	}
	defer c.deflaters.Put(e)
	enc, ok = e.Append(dst, cluster, c.clusterSize-1)
	return enc, ok, nil
}

// encodeLarge is Encode with zstd for clusters that our own encoder has no window for.
func (c *Codec) encodeLarge(dst, cluster []byte) (enc []byte, ok bool, err error) {
	e, _ := c.zencoders.Get().(*zstd.Encoder)
	if e == nil {
		// The default window takes 12 MiB for each encoder, whatever is encoded.
		e, err = zstd.NewWriter(nil, zstd.WithWindowSize(c.clusterSize), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(true),
			zstd.WithAllLitEntropyCompression(true))
		if err != nil {
			return dst, false, err
		}
	}
	defer c.zencoders.Put(e)
	if enc = e.EncodeAll(cluster, dst); len(enc)-len(dst) >= c.clusterSize {
		return dst, false, nil
	}
	return enc, true, nil
}
