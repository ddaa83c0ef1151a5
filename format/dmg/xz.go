package dmg

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/chunks"
)

var errXZ = errors.New("damaged .xz data")

// decodeXZ decodes an .xz container (tukaani.org, "The .xz File Format", 1.2.1) of
// blocks with the filter LZMA2 and returns how many bytes of dst it filled. The
// dictionary is never larger than dst, whatever a block asks for. The index at the end
// is not looked at, and checks of blocks are verified if they are CRC-32.
func decodeXZ(dst []byte, in *chunks.Input) (n int, err error) {
	var head [12]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, err
	}
	if string(head[:6]) != "\xfd7zXZ\x00" || head[6] != 0 || head[7] > 15 || crc32.ChecksumIEEE(head[6:8]) != le.Uint32(head[8:]) {
		return 0, errXZ
	}
	checkSize := [16]int{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}[head[7]]
	for {
		before := in.Rest()
		dict, err := blockHeader(in)
		if err != nil || dict == 0 {
			return n, err
		}
		c := lzma.Reader2Config{DictCap: int(max(lzma.MinDictCap, min(dict, int64(len(dst)))))}
		r, err := c.NewReader2(in)
		if err != nil {
			return n, err
		}
		start := n
		for err == nil && n < len(dst) {
			var m int
			m, err = r.Read(dst[n:])
			n += m
		}
		for err == nil { // the end has to be looked for
			var more [1]byte
			var m int
			if m, err = r.Read(more[:]); m > 0 {
				return n, chunks.ErrLong
			}
		}
		if err != io.EOF {
			return n, err
		}
		// Padding to a multiple of four bytes, and the check.
		tail := make([]byte, int((4-(before-in.Rest())%4)%4)+checkSize)
		if _, err := io.ReadFull(in, tail); err != nil {
			return n, err
		}
		if head[7] == 1 && crc32.ChecksumIEEE(dst[start:n]) != le.Uint32(tail[len(tail)-4:]) {
			return n, errXZ
		}
	}
}

// blockHeader reads the header of a block and returns the size of its dictionary in
// bytes, 0 if it is the index that follows.
func blockHeader(in *chunks.Input) (int64, error) {
	size, err := in.ReadByte()
	if err != nil || size == 0 {
		return 0, err
	}
	b := make([]byte, (int(size)+1)*4)
	b[0] = size
	if _, err := io.ReadFull(in, b[1:]); err != nil {
		return 0, err
	}
	if body := b[:len(b)-4]; crc32.ChecksumIEEE(body) != le.Uint32(b[len(body):]) {
		return 0, errXZ
	}
	flags := b[1]
	rest := bytes.NewReader(b[2 : len(b)-4])
	for _, present := range []bool{flags&0x40 != 0, flags&0x80 != 0} { // sizes of the block
		for present {
			c, err := rest.ReadByte()
			if err != nil {
				return 0, errXZ
			}
			present = c&0x80 != 0
		}
	}
	var filter [3]byte // LZMA2 has the number 0x21 and one byte of properties
	if _, err := io.ReadFull(rest, filter[:]); err != nil {
		return 0, errXZ
	}
	if flags&0x3f != 0 || filter[0] != 0x21 || filter[1] != 1 {
		return 0, driver.Errorf(driver.ErrUnsupported, ".xz data with other filters than LZMA2 are not supported")
	}
	if filter[2] > 40 {
		return 0, errXZ
	}
	return int64(2|filter[2]&1) << (filter[2]/2 + 11), nil
}
