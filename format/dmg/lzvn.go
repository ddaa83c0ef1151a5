package dmg

import (
	"io"

	"github.com/cowl-disk/cowl/internal/chunks"
)

// decodeLZVN decodes an LZVN payload behind the n bytes of dst. Its operations are
// literals, matches, and literals with a match behind; an operation ends the payload.
func decodeLZVN(dst []byte, n int, src []byte) (int, error) {
	distance := 0
	for {
		if len(src) == 0 {
			return n, io.ErrUnexpectedEOF
		}
		op := int(src[0])
		at := func(i int) int {
			if i < len(src) {
				return int(src[i])
			}
			return 0
		}
		var size, literals, match int // bytes of the operation; of its output
		switch {
		case op == 0x06:
			return n, nil
		case op == 0x0e || op == 0x16: // nothing
			src = src[1:]
			continue
		case op == 0xe0:
			size, literals = 2, at(1)+16
		case op > 0xe0 && op < 0xf0:
			size, literals = 1, op&15
		case op == 0xf0:
			size, match = 2, at(1)+16
		case op > 0xf0:
			size, match = 1, op&15
		case op&0xf0 == 0x70 || op&0xf0 == 0xd0 || op < 0x40 && op&7 == 6:
			return n, errLZFSE
		case op&0xe0 == 0xa0: // a distance of 14 bits
			rest := at(1) | at(2)<<8
			size, literals, match, distance = 3, op>>3&3, (op&7<<2|rest&3)+3, rest>>2
		case op&7 == 7: // of 16 bits
			size, literals, match, distance = 3, op>>6, op>>3&7+3, at(1)|at(2)<<8
		case op&7 == 6: // the one before
			size, literals, match = 1, op>>6, op>>3&7+3
		default: // of 11 bits
			size, literals, match, distance = 2, op>>6, op>>3&7+3, op&7<<8|at(1)
		}
		if size+literals > len(src) {
			return n, io.ErrUnexpectedEOF
		}
		if literals > len(dst)-n {
			return n, chunks.ErrLong
		}
		n += copy(dst[n:], src[size:size+literals])
		src = src[size+literals:]
		if match > 0 {
			var err error
			if n, err = copyBack(dst, n, distance, match); err != nil {
				return n, err
			}
		}
	}
}
