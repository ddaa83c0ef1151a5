package dmg

import (
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/chunks"
)

// codecs holds what decoders use again.
type codecs struct {
	zlib  chunks.Zlib
	bzip2 bzip2Decoder
}

// decode implements chunks.Decoder. A chunk has exactly the sectors of its run.
func (n *node) decode(dst []byte, in *chunks.Input, c chunks.Chunk) error {
	var got int
	var err error
	switch c.Codec {
	case typeZlib:
		got, err = n.codecs.zlib.Decode(dst, in)
	case typeBzip2:
		var src []byte
		if src, err = in.All(); err == nil {
			got, err = n.codecs.bzip2.decode(dst, src)
		}
	case typeLZMA:
		got, err = decodeXZ(dst, in)
	case typeADC, typeLZFSE:
		var src []byte
		if src, err = in.All(); err == nil && c.Codec == typeADC {
			got, err = decodeADC(dst, src)
		} else if err == nil {
			got, err = decodeLZFSE(dst, src)
		}
	default:
		err = driver.Errorf(driver.ErrUnsupported, "chunks of type %#x are not supported", c.Codec)
	}
	if err == nil && got < len(dst) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
