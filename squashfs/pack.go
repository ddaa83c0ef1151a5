package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/cowl-disk/cowl/internal/xz"
)

// The levels that mksquashfs takes where none is given.
const (
	defaultGzip = 9
	defaultZstd = 15
	lz4Version  = 1
	lz4High     = 1 // flag and level: the slow compressor
)

// packer compresses blocks. One goroutine at a time uses it.
type packer interface {
	// pack appends the compressed form of src to dst. It returns false, and dst as it was,
	// where that is not shorter than src.
	pack(dst, src []byte) ([]byte, bool, error)
}

// level checks a compression level; 0 is the default one.
func level(c Compression, l int) (int, error) {
	most := map[Compression]int{Gzip: 9, Zstd: 22, LZ4: lz4High}[c]
	switch {
	case l < 0 || l > most && most > 0:
		return 0, fmt.Errorf("%s takes compression levels from 1 to %d, not %d", c, most, l)
	case l > most:
		return 0, fmt.Errorf("%s takes no compression level", c)
	case l == 0 && c == Gzip:
		return defaultGzip, nil
	case l == 0 && c == Zstd:
		return defaultZstd, nil
	}
	return l, nil
}

// options returns the compressor's option block, nil for the default ones.
func options(c Compression, level int) []byte {
	le := binary.LittleEndian
	switch {
	case c == Gzip && level != defaultGzip:
		b := le.AppendUint32(nil, uint32(level))
		return append(b, 15, 0, 0, 0) // the window, no strategies
	case c == Zstd && level != defaultZstd:
		return le.AppendUint32(nil, uint32(level))
	case c == LZ4:
		return le.AppendUint32(le.AppendUint32(nil, lz4Version), uint32(level))
	}
	return nil
}

func newPacker(c Compression, level int, blockSize int) (packer, error) {
	switch c {
	case Gzip:
		// Level 8 of this compressor comes to the size of zlib's 9 in a third of the time; its
		// own 9 gains 0 to 2 % for two to three times the time.
		w, err := zlib.NewWriterLevel(nil, min(level, 8))
		return &gzipPacker{w: w}, err
	case Zstd:
		w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(blockSize), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
		return zstdPacker{w}, err
	case LZ4:
		if level == lz4High {
			return &lz4Packer{high: &lz4.CompressorHC{Level: lz4.Level9}}, nil
		}
		return &lz4Packer{}, nil
	case XZ:
		return xzPacker{xz.NewEncoder()}, nil
	case LZMA:
		return lzmaPacker{xz.NewEncoder()}, nil
	}
	return nil, fmt.Errorf("writing with %s is not supported", c)
}

// capped collects what a compressor writes up to a size.
type capped struct {
	b    []byte
	most int
}

var errTooLong = errors.New("not shorter than its source")

func (c *capped) Write(p []byte) (int, error) {
	if len(c.b)+len(p) > c.most {
		return 0, errTooLong
	}
	c.b = append(c.b, p...)
	return len(p), nil
}

// packed makes the result of a packer of what it has written.
func packed(dst []byte, out *capped, err error) ([]byte, bool, error) {
	if errors.Is(err, errTooLong) {
		return dst, false, nil
	}
	if err != nil {
		return dst, false, err
	}
	return out.b, true, nil
}

type gzipPacker struct{ w *zlib.Writer }

func (p *gzipPacker) pack(dst, src []byte) ([]byte, bool, error) {
	out := &capped{dst, len(dst) + len(src) - 1}
	p.w.Reset(out)
	_, err := p.w.Write(src)
	if err == nil {
		err = p.w.Close()
	}
	return packed(dst, out, err)
}

type zstdPacker struct{ w *zstd.Encoder }

func (p zstdPacker) pack(dst, src []byte) ([]byte, bool, error) {
	out := p.w.EncodeAll(src, dst)
	if len(out)-len(dst) >= len(src) {
		return dst, false, nil
	}
	return out, true, nil
}

type lz4Packer struct {
	fast lz4Encoder
	high *lz4.CompressorHC // nil for the fast one
}

func (p *lz4Packer) pack(dst, src []byte) ([]byte, bool, error) {
	room := len(src) - 1
	if room <= 0 {
		return dst, false, nil
	}
	if cap(dst)-len(dst) < room {
		dst = append(make([]byte, 0, len(dst)+room), dst...)
	}
	out := dst[len(dst) : len(dst)+room]
	if p.high == nil {
		n := p.fast.encode(out, src)
		return dst[:len(dst)+n], n > 0, nil
	}
	n, err := p.high.CompressBlock(src, out)
	if errors.Is(err, lz4.ErrInvalidSourceShortBuffer) || err == nil && n == 0 {
		return dst, false, nil
	}
	return dst[:len(dst)+n], err == nil, err
}

type xzPacker struct{ e *xz.Encoder }

func (p xzPacker) pack(dst, src []byte) ([]byte, bool, error) {
	out, ok := p.e.Append(dst, src, dictionary(src), len(src)-1)
	return out, ok, nil
}

// dictionary is the size that readers are told: the kernel takes powers of two, and no
// more than a block.
func dictionary(src []byte) int {
	dict := minBlock
	for dict < len(src) {
		dict *= 2
	}
	return dict
}

type lzmaPacker struct{ e *xz.Encoder }

func (p lzmaPacker) pack(dst, src []byte) ([]byte, bool, error) {
	out, ok := p.e.AppendAlone(dst, src, dictionary(src), len(src)-1)
	return out, ok, nil
}
