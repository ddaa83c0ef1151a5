package dmg

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/bits"
	"sync"

	"github.com/cowl-disk/cowl/internal/chunks"
)

// bzip2Decoder decodes bzip2 streams that are in memory into buffers of known size, several times as fast as
// compress/bzip2, which reads codes bit by bit and needs 3.6 MB for each stream. There is no specification; the format is
// that of bzip2 1.0, without its obsolete randomised blocks. The zero value is ready, and safe for concurrent use.
type bzip2Decoder struct{ pool sync.Pool }

// decode fills dst with what the streams in src hold, and returns how many bytes that is. All checksums are verified.
// chunks.ErrLong: there is more than dst has room for.
func (d *bzip2Decoder) decode(dst, src []byte) (int, error) {
	b, _ := d.pool.Get().(*bzip2Block)
	if b == nil {
		b = &bzip2Block{}
	}
	defer d.pool.Put(b)
	in := &bitReader{src: src}
	n := 0
	for first := true; ; first = false {
		if !first && in.left() == 0 {
			return n, nil
		}
		m, err := b.stream(dst[n:], in)
		n += m
		if err != nil {
			return n, err
		}
		in.align()
	}
}

// Limits of the format.
const (
	bzip2Unit     = 100000 // bytes of a block for each level
	bzip2Groups   = 6      // tables of codes in a block
	bzip2Symbols  = 258    // of an alphabet: all bytes but one, two digits of runs, the end
	bzip2Longest  = 20     // bits of a code
	bzip2PerTable = 50     // symbols that are read with one table
	bzip2Quick    = 10     // bits of the index of quick
)

const (
	bzip2BlockMagic = 0x314159265359
	bzip2EndMagic   = 0x177245385090
)

var (
	errBzip2Cut    = errors.New("the bzip2 stream ends too early")
	errBzip2Header = errors.New("no bzip2 stream, or one with randomised blocks")
	errBzip2Code   = errors.New("the codes of a bzip2 block cannot be right")
	errBzip2Block  = errors.New("the content of a bzip2 block cannot be right")
	errBzip2Sum    = errors.New("a bzip2 block does not have the checksum that it should have")
)

// bzip2Block is the memory of a decoder.
type bzip2Block struct {
	tables    [bzip2Groups]bzip2Table
	selectors []byte // which table each group of symbols has
	// next has, for each byte of the block before its reordering, that byte and, above it, the index of the one that
	// follows.
	next  []uint32
	check [1024]byte
}

// bzip2Table decodes codes of one kind.
type bzip2Table struct {
	quick [1 << bzip2Quick]uint16 // symbol<<5 | length by the first bits, 0: the code is longer
	// For codes of a length: below which value, shifted to the left, they are; and what leads from the value to the
	// place in symbols.
	limit   [bzip2Longest + 2]uint32
	offset  [bzip2Longest + 2]int32
	symbols [bzip2Symbols]uint16
}

// stream decodes one stream.
func (b *bzip2Block) stream(dst []byte, in *bitReader) (n int, err error) {
	head := in.take(32)
	level := int(head&0xff) - '0'
	if head>>8 != 'B'<<16|'Z'<<8|'h' || level < 1 || level > 9 {
		return 0, errBzip2Header
	}
	var sum uint32
	for {
		switch in.take(48) {
		case bzip2BlockMagic:
			want := uint32(in.take(32))
			m, err := b.block(dst[n:], in, level*bzip2Unit)
			if err != nil {
				return n, err
			}
			if b.checksum(dst[n:n+m]) != want {
				return n, errBzip2Sum
			}
			sum = bits.RotateLeft32(sum, 1) ^ want
			n += m
		case bzip2EndMagic:
			want := uint32(in.take(32))
			switch {
			case in.over():
				return n, errBzip2Cut
			case want != sum:
				return n, errBzip2Sum
			}
			return n, nil
		default:
			if in.over() {
				return n, errBzip2Cut
			}
			return n, errBzip2Header
		}
	}
}

// block decodes a block of at most most bytes before runs are expanded.
func (b *bzip2Block) block(dst []byte, in *bitReader, most int) (int, error) {
	if in.take(1) != 0 {
		return 0, errBzip2Header
	}
	start := int(in.take(24))
	var list [256]byte // of bytes, the one met last in front
	used := 0
	for rows, row := in.take(16), 0; row < 16; row++ {
		if rows>>(15-row)&1 == 0 {
			continue
		}
		for cols, col := in.take(16), 0; col < 16; col++ {
			if cols>>(15-col)&1 != 0 {
				list[used] = byte(row<<4 | col)
				used++
			}
		}
	}
	if used == 0 {
		return 0, errBzip2Block
	}
	if err := b.readCodes(in, used+2); err != nil {
		return 0, err
	}
	// Four equal bytes may be followed by a count of none: what is longer does not fit into dst.
	if fits := len(dst) + len(dst)/4 + 8; fits < most {
		most = fits
	}
	n, err := b.symbols(in, &list, used, most)
	switch {
	case err != nil:
		return 0, err
	case start >= n:
		return 0, errBzip2Block
	}
	return expandRuns(dst, b.order(n), start)
}

// readCodes reads the selectors and the tables of codes for an alphabet.
func (b *bzip2Block) readCodes(in *bitReader, alphabet int) error {
	groups, count := int(in.take(3)), int(in.take(15))
	if groups < 2 || groups > bzip2Groups || count == 0 {
		return errBzip2Code
	}
	order := [bzip2Groups]byte{0, 1, 2, 3, 4, 5}
	b.selectors = b.selectors[:0]
	for range count {
		i := 0
		for in.take(1) != 0 {
			if i++; i >= groups {
				return errBzip2Code
			}
		}
		s := order[i]
		copy(order[1:i+1], order[:i])
		order[0] = s
		b.selectors = append(b.selectors, s)
	}
	for g := range groups {
		var lengths [bzip2Symbols]uint8
		length := int(in.take(5))
		for s := range alphabet {
			for {
				if length < 1 || length > bzip2Longest {
					return errBzip2Code
				}
				if in.take(1) == 0 {
					break
				}
				length += 1 - 2*int(in.take(1))
			}
			lengths[s] = uint8(length)
		}
		if err := b.tables[g].build(lengths[:alphabet]); err != nil {
			return err
		}
	}
	if in.over() {
		return errBzip2Cut
	}
	return nil
}

// build makes the table for codes of these lengths.
func (t *bzip2Table) build(lengths []uint8) error {
	var count [bzip2Longest + 2]int
	for _, l := range lengths {
		count[l]++
	}
	var first [bzip2Longest + 2]int // place in symbols
	for l, sum := 1, 0; l <= bzip2Longest; l++ {
		first[l] = sum
		sum += count[l]
	}
	place := first
	for s, l := range lengths {
		t.symbols[place[l]] = uint16(s)
		place[l]++
	}
	clear(t.quick[:])
	code := 0
	for l := 1; l <= bzip2Longest; l++ {
		t.offset[l] = int32(first[l] - code)
		for i := range count[l] {
			if l <= bzip2Quick && code+i < 1<<l {
				from := (code + i) << (bzip2Quick - l)
				for k := range 1 << (bzip2Quick - l) {
					t.quick[from+k] = t.symbols[first[l]+i]<<5 | uint16(l)
				}
			}
		}
		if code += count[l]; code > 1<<l {
			return errBzip2Code
		}
		t.limit[l] = uint32(code) << (bzip2Longest - l)
		code <<= 1
	}
	return nil
}

// slow decodes a code that is not in quick, the first bits of which are in v. The length is 0 if there is none.
func (t *bzip2Table) slow(v uint32) (symbol, length int) {
	for l := bzip2Quick + 1; l <= bzip2Longest; l++ {
		if v < t.limit[l] {
			i := int32(v>>(bzip2Longest-l)) + t.offset[l]
			if i < 0 || i >= bzip2Symbols {
				return 0, 0
			}
			return int(t.symbols[i]), l
		}
	}
	return 0, 0
}

// symbols reads the symbols of a block and leaves the bytes that they stand for in next. It returns how many there are.
func (b *bzip2Block) symbols(in *bitReader, list *[256]byte, used, most int) (int, error) {
	if cap(b.next) < most {
		b.next = make([]uint32, most)
	}
	next := b.next[:most]
	end := used + 1 // the symbol
	n, run, digit := 0, 0, 1
	for _, s := range b.selectors {
		t := &b.tables[s]
		for range bzip2PerTable {
			in.fill()
			v := uint32(in.word >> (64 - bzip2Longest))
			e := int(t.quick[v>>(bzip2Longest-bzip2Quick)])
			symbol, length := e>>5, e&31
			if length == 0 {
				if symbol, length = t.slow(v); length == 0 {
					return 0, errBzip2Code
				}
			}
			in.word <<= length
			in.bits -= length
			if symbol <= 1 { // a digit of the length of a run
				if digit > most {
					return 0, chunks.ErrLong
				}
				run += digit << symbol
				digit <<= 1
				continue
			}
			if run > 0 {
				if run > most-n {
					return 0, chunks.ErrLong
				}
				c := uint32(list[0])
				for i := range next[n : n+run] {
					next[n+i] = c
				}
				n += run
				run, digit = 0, 1
			}
			if symbol == end {
				if in.over() {
					return 0, errBzip2Cut
				}
				return n, nil
			}
			if n >= most {
				return 0, chunks.ErrLong
			}
			c := list[symbol-1]
			copy(list[1:symbol], list[:symbol-1])
			list[0] = c
			next[n] = uint32(c)
			n++
		}
		if in.over() {
			return 0, errBzip2Cut
		}
	}
	return 0, errBzip2Block // there are more symbols than selectors
}

// order links the first n bytes of next in the order that they had before they were sorted.
func (b *bzip2Block) order(n int) []uint32 {
	next := b.next[:n]
	var place [256]uint32
	for _, v := range next {
		place[byte(v)]++
	}
	sum := uint32(0)
	for i, c := range place {
		place[i] = sum
		sum += c
	}
	for i, v := range next {
		c := byte(v)
		next[place[c]] |= uint32(i) << 8
		place[c]++
	}
	return next
}

// expandRuns follows the links from start and fills dst: four equal bytes are followed by how many more there are.
func expandRuns(dst []byte, next []uint32, start int) (int, error) {
	n, last, equal := 0, -1, 0
	at := next[start] >> 8
	for range next {
		at = next[at]
		c := byte(at)
		at >>= 8
		if equal == 4 {
			if len(dst)-n < int(c) {
				return 0, chunks.ErrLong
			}
			for i := range dst[n : n+int(c)] {
				dst[n+i] = byte(last)
			}
			n += int(c)
			last, equal = -1, 0
			continue
		}
		if n == len(dst) {
			return 0, chunks.ErrLong
		}
		dst[n] = c
		n++
		if int(c) != last {
			last, equal = int(c), 0
		}
		equal++
	}
	return n, nil
}

// checksum is the CRC of bzip2: that of zip with the bits of each byte, and of the sum, in the other order.
func (b *bzip2Block) checksum(p []byte) uint32 {
	sum := uint32(0)
	for len(p) > 0 {
		n := copy(b.check[:], p)
		for i := 0; i < n; i += 8 {
			w := b.check[i : i+8]
			binary.LittleEndian.PutUint64(w, bits.ReverseBytes64(bits.Reverse64(binary.LittleEndian.Uint64(w))))
		}
		sum = crc32.Update(sum, crc32.IEEETable, b.check[:n])
		p = p[n:]
	}
	return bits.Reverse32(sum)
}

// bitReader reads bits, the most significant bit of a byte first. Behind the end there are zeroes.
type bitReader struct {
	src  []byte
	word uint64 // the next bits, from the top
	bits int    // of word that are read; below 0: more was taken than there is
}

// fill makes sure that there are 32 bits at least, if src has them.
func (r *bitReader) fill() {
	if r.bits > 32 {
		return
	}
	if len(r.src) >= 4 {
		if r.bits >= 0 {
			r.word |= uint64(binary.BigEndian.Uint32(r.src)) << (32 - r.bits)
			r.src, r.bits = r.src[4:], r.bits+32
		}
		return
	}
	for len(r.src) > 0 && r.bits >= 0 {
		r.word |= uint64(r.src[0]) << (56 - r.bits)
		r.src, r.bits = r.src[1:], r.bits+8
	}
}

// take reads the next n bits, 48 at most.
func (r *bitReader) take(n int) uint64 {
	if n > 32 {
		high := r.take(n - 24)
		return high<<24 | r.take(24)
	}
	r.fill()
	v := r.word >> (64 - n)
	r.word <<= n
	r.bits -= n
	return v
}

// over says whether more was taken than there was.
func (r *bitReader) over() bool { return r.bits < 0 }

// left returns how many bytes are left.
func (r *bitReader) left() int { return len(r.src) + max(r.bits, 0)/8 }

// align passes over the bits up to the next whole byte.
func (r *bitReader) align() { r.take(r.bits % 8 & 7) }
