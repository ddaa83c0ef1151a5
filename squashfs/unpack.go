package squashfs

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"

	"github.com/cowl-disk/cowl/internal/xz"
)

// unpacker decompresses blocks, for several goroutines at once.
type unpacker struct {
	c    Compression
	zstd *zstd.Decoder
	gzip sync.Pool // of gzipReader
}

type gzipReader interface {
	io.Reader
	zlib.Resetter
}

func newUnpacker(c Compression) (*unpacker, error) {
	u := &unpacker{c: c}
	switch c {
	case Gzip, XZ, LZMA, LZ4:
	case Zstd:
		var err error
		u.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxBlock), zstd.WithDecoderMaxWindow(maxBlock))
		if err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("reading of squashfs images that are compressed with %s is not supported", c)
	}
	return u, nil
}

// unpack decompresses src to dst or a part of it and returns how much it was.
func (u *unpacker) unpack(dst, src []byte) (n int, err error) {
	switch u.c {
	case Gzip:
		r, _ := u.gzip.Get().(gzipReader)
		if r == nil {
			z, err := zlib.NewReader(bytes.NewReader(src))
			if err != nil {
				return 0, err
			}
			r = z.(gzipReader)
		} else if err := r.Reset(bytes.NewReader(src), nil); err != nil {
			return 0, err
		}
		defer u.gzip.Put(r)
		return readUpTo(r, dst)
	case XZ:
		return readUpTo(xz.NewReader(bytes.NewReader(src), maxBlock), dst)
	case LZMA:
		r, err := lzma.ReaderConfig{DictCap: maxBlock}.NewReader(bytes.NewReader(src))
		if err != nil {
			return 0, err
		}
		return readUpTo(r, dst)
	case LZ4:
		return lz4.UncompressBlock(src, dst)
	}
	out, err := u.zstd.DecodeAll(src, dst[:0])
	if len(out) > len(dst) {
		return 0, fmt.Errorf("a block unpacks to more than %d bytes", len(dst))
	}
	return len(out), err
}

// readUpTo reads to the end, which must come when dst is full at the latest.
func readUpTo(r io.Reader, dst []byte) (int, error) {
	n, err := io.ReadFull(r, dst)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return n, nil
	}
	if err != nil {
		return n, err
	}
	var more [1]byte
	for {
		k, err := r.Read(more[:])
		if k > 0 {
			return n, fmt.Errorf("a block unpacks to more than %d bytes", len(dst))
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
