package fstree

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"

	"github.com/cowl-disk/cowl/internal/xz"
)

// maxWindow bounds the dictionaries of compressed streams. "xz -9" takes 64 MiB,
// "zstd --long" 128 MiB.
const maxWindow = 128 << 20

// magics are what compressed streams begin with.
var magics = []struct {
	magic string
	open  func(io.Reader) (io.Reader, error)
}{
	{"\x1f\x8b", func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	{"BZh", func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }},
	{xz.Magic, func(r io.Reader) (io.Reader, error) { return xz.NewReader(r, maxWindow), nil }},
	{"\x28\xb5\x2f\xfd", openZstd},
	{"\x04\x22\x4d\x18", func(r io.Reader) (io.Reader, error) { return lz4.NewReader(r), nil }},
	{"\x5d\x00\x00", openLZMA},
}

func openZstd(r io.Reader) (io.Reader, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

func openLZMA(r io.Reader) (io.Reader, error) {
	return lzma.ReaderConfig{DictCap: maxWindow}.NewReader(r)
}

// Decompress returns a reader of what r holds: of its unpacked bytes where it begins
// like a stream of gzip, bzip2, xz, zstd, lz4 or lzma, else of r as it is; packed tells
// which. Memory is bounded. Closing it does not close r.
func Decompress(r io.Reader) (plain io.ReadCloser, packed bool, err error) {
	in := bufio.NewReaderSize(r, 256<<10)
	head, err := in.Peek(HeadSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	open := opener(head)
	if open == nil {
		return io.NopCloser(in), false, nil
	}
	u, err := open(in)
	if err != nil {
		return nil, true, fmt.Errorf("compressed stream: %w", err)
	}
	if c, ok := u.(io.ReadCloser); ok {
		return c, true, nil
	}
	return io.NopCloser(u), true, nil
}

// HeadSize is how many bytes tell how a stream is compressed.
const HeadSize = 262

// IsCompressed reports whether a stream that begins with head, HeadSize bytes of it or all
// that there are, is one that Decompress unpacks.
func IsCompressed(head []byte) bool { return opener(head) != nil }

func opener(head []byte) func(io.Reader) (io.Reader, error) {
	// an archive whose first file has a name like a magic is no compressed stream
	if len(head) >= HeadSize && string(head[257:262]) == "ustar" {
		return nil
	}
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.open
		}
	}
	return nil
}
