package codec

import (
	"github.com/klauspost/compress/zstd"

	"github.com/cowl-disk/cowl/internal/deflate"
)

// Encode appends the compressed cluster to dst; ok is false if it would not be
// smaller than a cluster.
func (c *Codec) Encode(dst, cluster []byte) (enc []byte, ok bool, err error) {
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
	e, _ := c.deflaters.Get().(*deflate.Encoder)
	if e == nil {
		e = new(deflate.Encoder)
	}
	defer c.deflaters.Put(e)
	enc, ok = e.Append(dst, cluster, c.clusterSize-1)
	return enc, ok, nil
}
