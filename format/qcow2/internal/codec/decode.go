package codec

import (
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/inflate"
)

// Codec compresses and decompresses clusters (section "Compressed Clusters
// Descriptor"). It is safe for concurrent use.
type Codec struct {
	zstd        bool
	clusterSize int

	inflate                         inflate.Decoder
	deflaters, zdecoders, zencoders sync.Pool

	// last keeps the cluster that was decoded last for reads of parts of it.
	lastMu  sync.Mutex
	lastKey uint64 // L2 entry, 0: none
	last    []byte
}

// New returns a codec for clusters of a size in bytes and a compression type of the
// header.
func New(clusterSize int64, compression uint8) *Codec {
	return &Codec{zstd: compression == ondisk.CompressionZstd, clusterSize: int(clusterSize)}
}

// Cached copies from the cluster decoded last, if it is that of key.
func (c *Codec) Cached(key uint64, p []byte, in int64) bool {
	c.lastMu.Lock()
	defer c.lastMu.Unlock()
	if c.lastKey != key {
		return false
	}
	copy(p, c.last[in:])
	return true
}

// Keep remembers a decoded cluster and returns a buffer to give back.
func (c *Codec) Keep(key uint64, buf []byte) []byte {
	c.lastMu.Lock()
	defer c.lastMu.Unlock()
	old := c.last
	c.lastKey, c.last = key, buf
	return old
}

// Forget drops the remembered cluster: its place in the file may be used anew.
func (c *Codec) Forget() {
	c.lastMu.Lock()
	c.lastKey = 0
	c.lastMu.Unlock()
}

// Decode fills p, one cluster, from enc, which may be followed by other bytes.
func (c *Codec) Decode(p, enc []byte) error {
	if c.zstd {
		return c.decodeZstd(p, enc)
	}
	return c.inflate.Fill(p, enc)
}

// zstdSlack is how many bytes behind the output let the decoder copy whole words. Without
// it the last block of a frame, of small clusters the only one, takes twice the time.
const zstdSlack = 32

// maxSlackCluster is the largest cluster that is decoded with slack, into a buffer of its
// own: larger ones have several blocks, of which only the last one is slow.
const maxSlackCluster = 256 << 10

// zstdDecoder is a decoder with its buffer, which is nil for large clusters.
type zstdDecoder struct {
	*zstd.Decoder
	buf []byte
}

// maxWindow is the largest window of a frame: what libzstd takes. A program that does not
// tell its encoder how much is to come names one that is larger than the cluster. It costs
// nothing, since what was decoded is the window.
const maxWindow = 128 << 20

func (c *Codec) newZstdDecoder() (*zstdDecoder, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	z := &zstdDecoder{Decoder: d}
	if c.clusterSize <= maxSlackCluster {
		z.buf = make([]byte, 0, c.clusterSize+zstdSlack)
	}
	return z, nil
}

func (c *Codec) decodeZstd(p, enc []byte) error {
	d, _ := c.zdecoders.Get().(*zstdDecoder)
	if d == nil {
		var err error
		if d, err = c.newZstdDecoder(); err != nil {
			return err
		}
	}
	defer c.zdecoders.Put(d)
	out := d.buf
	if out == nil {
		out = p[:0:len(p)]
	}
	for len(out) < len(p) {
		n, err := zstdFrame(enc)
		if err != nil {
			return err
		}
		if out, err = d.DecodeAll(enc[:n], out); err != nil {
			return err
		}
		enc = enc[n:]
	}
	if len(out) > len(p) {
		return errors.New("more data than a cluster")
	}
	if d.buf != nil {
		copy(p, out)
	}
	return nil
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
