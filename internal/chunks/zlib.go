package chunks

import (
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"

	"github.com/cowl-disk/cowl/internal/inflate"
)

// ErrLong says that a chunk holds more than the bytes that are its own.
var ErrLong = errors.New("more data than the chunk has room for")

// maxWhole is how many encoded bytes are taken into memory as a whole. Longer streams,
// which no usual image has, are read a piece at a time.
const maxWhole = 4 << 20

// Zlib decodes zlib streams (RFC 1950). The zero value is ready, and safe for
// concurrent use.
type Zlib struct {
	whole inflate.Decoder
	pool  sync.Pool // of readers for streams that are long
}

// Decode fills dst with what the stream at in holds and returns how many bytes that
// is. The checksum of the stream is verified. What follows the stream is ignored.
// ErrLong: there is more than dst has room for.
func (z *Zlib) Decode(dst []byte, in *Input) (int, error) {
	if in.Rest() > maxWhole {
		return z.stream(dst, in)
	}
	src, err := in.All()
	if err != nil {
		return 0, err
	}
	n, _, err := z.whole.Zlib(dst, src)
	if errors.Is(err, inflate.ErrLong) {
		err = ErrLong
	}
	return n, err
}

func (z *Zlib) stream(dst []byte, in *Input) (int, error) {
	r, _ := z.pool.Get().(io.ReadCloser)
	var err error
	if r == nil {
		r, err = zlib.NewReader(in)
	} else {
		err = r.(zlib.Resetter).Reset(in, nil)
	}
	if err != nil {
		return 0, err
	}
	n := 0
	for err == nil && n < len(dst) {
		var m int
		m, err = r.Read(dst[n:])
		n += m
	}
	// The end of the stream, and with it the checksum, has to be looked for.
	for err == nil {
		var more [1]byte
		var m int
		if m, err = r.Read(more[:]); m > 0 {
			return n, ErrLong
		}
	}
	if err != io.EOF {
		return n, err
	}
	z.pool.Put(r)
	return n, nil
}
