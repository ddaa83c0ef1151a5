package inflate

import (
	"encoding/binary"
	"errors"
	"hash/adler32"
	"io"
	"sync"
)

// Errors of the decoder. Where the input ends too early it is io.ErrUnexpectedEOF.
var (
	ErrCorrupt  = errors.New("damaged DEFLATE data")
	ErrLong     = errors.New("more data than there is room for")
	ErrHeader   = errors.New("invalid header of a zlib stream")
	ErrChecksum = errors.New("invalid checksum of a zlib stream")
)

// Decoder decodes. The zero value is ready, and safe for concurrent use.
type Decoder struct{ pool sync.Pool }

// Inflate fills dst from the DEFLATE stream that src begins with. It returns how many
// bytes of dst are filled, and how many of src the stream takes. ErrLong: dst is full,
// and the stream goes on.
func (d *Decoder) Inflate(dst, src []byte) (n, used int, err error) {
	t, _ := d.pool.Get().(*tables)
	if t == nil {
		t = new(tables)
	}
	s := state{t: t, src: src, dst: dst}
	err = s.run()
	d.pool.Put(t)
	return s.out, s.pos - s.cnt/8, err
}

// Fill fills dst from the beginning of the DEFLATE stream in src. Where the stream ends,
// or is cut, does not matter if dst is full by then.
func (d *Decoder) Fill(dst, src []byte) error {
	n, _, err := d.Inflate(dst, src)
	switch {
	case n == len(dst) && (errors.Is(err, ErrLong) || errors.Is(err, io.ErrUnexpectedEOF)):
		return nil
	case n < len(dst) && err == nil:
		return io.ErrUnexpectedEOF
	}
	return err
}

// Zlib is Inflate for a zlib stream, whose checksum is verified.
func (d *Decoder) Zlib(dst, src []byte) (n, used int, err error) {
	const header, deflate, dictionary = 2, 8, 0x20
	if len(src) < header {
		return 0, 0, io.ErrUnexpectedEOF
	}
	if h := binary.BigEndian.Uint16(src); h%31 != 0 || src[0]&15 != deflate || src[0]>>4 > 7 || src[1]&dictionary != 0 {
		return 0, 0, ErrHeader
	}
	n, used, err = d.Inflate(dst, src[header:])
	used += header
	if err != nil {
		return n, used, err
	}
	if len(src)-used < adler32.Size {
		return n, used, io.ErrUnexpectedEOF
	}
	if binary.BigEndian.Uint32(src[used:]) != adler32.Checksum(dst[:n]) {
		err = ErrChecksum
	}
	return n, used + adler32.Size, err
}

// tables are those of one block.
type tables struct {
	lit   [literalEntries]uint32
	dist  [distanceEntries]uint32
	len   [1 << lengthBits]uint32
	lens  [literals + distances]uint8
	fixed bool // lit and dist are those of the fixed code
}

// state is how far a stream is decoded.
type state struct {
	t        *tables
	src, dst []byte
	pos, out int
	buf      uint64 // bits that were taken from src, the next one lowest
	cnt      int    // how many
}

// fill takes whole bytes from src until there are more than 56 bits, or no bytes.
func (s *state) fill() {
	for s.cnt <= 56 && s.pos < len(s.src) {
		s.buf |= uint64(s.src[s.pos]) << s.cnt
		s.pos++
		s.cnt += 8
	}
}

// take takes n bits, at most 32.
func (s *state) take(n int) (uint32, bool) {
	if s.cnt < n {
		if s.fill(); s.cnt < n {
			return 0, false
		}
	}
	v := uint32(s.buf & (1<<n - 1))
	s.buf >>= n
	s.cnt -= n
	return v, true
}

func (s *state) run() error {
	for {
		h, ok := s.take(3)
		if !ok {
			return io.ErrUnexpectedEOF
		}
		var err error
		switch h >> 1 {
		case 0:
			err = s.stored()
		case 1:
			s.t.fix()
			err = s.block()
		case 2:
			if err = s.dynamic(); err == nil {
				err = s.block()
			}
		default:
			err = ErrCorrupt
		}
		if err != nil || h&1 != 0 {
			return err
		}
	}
}

// stored copies a block (section 3.2.4).
func (s *state) stored() error {
	// Whole bytes of the buffer go back.
	s.pos -= s.cnt / 8
	s.buf, s.cnt = 0, 0
	if len(s.src)-s.pos < 4 {
		return io.ErrUnexpectedEOF
	}
	n, not := binary.LittleEndian.Uint16(s.src[s.pos:]), binary.LittleEndian.Uint16(s.src[s.pos+2:])
	s.pos += 4
	switch {
	case n != ^not:
		return ErrCorrupt
	case int(n) > len(s.dst)-s.out && len(s.src)-s.pos >= len(s.dst)-s.out:
		s.pos += copy(s.dst[s.out:], s.src[s.pos:])
		s.out = len(s.dst)
		return ErrLong
	case int(n) > len(s.src)-s.pos:
		return io.ErrUnexpectedEOF
	}
	copy(s.dst[s.out:], s.src[s.pos:s.pos+int(n)])
	s.pos, s.out = s.pos+int(n), s.out+int(n)
	return nil
}

// fix makes the tables of the fixed code (section 3.2.6).
func (t *tables) fix() {
	if t.fixed {
		return
	}
	for i := range literals {
		switch {
		case i < 144:
			t.lens[i] = 8
		case i < 256:
			t.lens[i] = 9
		case i < 280:
			t.lens[i] = 7
		default:
			t.lens[i] = 8
		}
	}
	for i := range distances {
		t.lens[literals+i] = 5
	}
	build(t.lit[:], t.lens[:literals], literalBits, literalEntry)
	build(t.dist[:], t.lens[literals:], distanceBits, distanceEntry)
	t.fixed = true
}

// lengthOrder is the order in which the lengths of codes for lengths are given.
var lengthOrder = [lengthSyms]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// dynamic reads the codes of a block (section 3.2.7).
func (s *state) dynamic() error {
	t := s.t
	t.fixed = false
	h, ok := s.take(14)
	if !ok {
		return io.ErrUnexpectedEOF
	}
	nlit, ndist, nlen := int(h&31)+257, int(h>>5&31)+1, int(h>>10)+4
	if nlit > 286 {
		return ErrCorrupt
	}
	var lens [lengthSyms]uint8
	for _, i := range lengthOrder[:nlen] {
		v, ok := s.take(3)
		if !ok {
			return io.ErrUnexpectedEOF
		}
		lens[i] = uint8(v)
	}
	if !build(t.len[:], lens[:], lengthBits, lengthEntry) {
		return ErrCorrupt
	}
	all := t.lens[:nlit+ndist]
	for i := 0; i < len(all); {
		s.fill()
		e := t.len[s.buf&(1<<lengthBits-1)]
		n := int(e & 0xff)
		if e&otherFlag != 0 {
			return ErrCorrupt
		}
		if n > s.cnt {
			return io.ErrUnexpectedEOF
		}
		s.buf >>= n
		s.cnt -= n
		symbol := uint8(e >> 16)
		if symbol < 16 {
			all[i] = symbol
			i++
			continue
		}
		value, more, repeat := uint8(0), 2, 3
		switch symbol {
		case 16:
			if i == 0 {
				return ErrCorrupt
			}
			value = all[i-1]
		case 17:
			more = 3
		default:
			more, repeat = 7, 11
		}
		v, ok := s.take(more)
		if !ok {
			return io.ErrUnexpectedEOF
		}
		if repeat += int(v); repeat > len(all)-i {
			return ErrCorrupt
		}
		for ; repeat > 0; repeat-- {
			all[i] = value
			i++
		}
	}
	if all[256] == 0 || !build(t.lit[:], all[:nlit], literalBits, literalEntry) || !build(t.dist[:], all[nlit:], distanceBits, distanceEntry) {
		return ErrCorrupt
	}
	return nil
}

const (
	maxDistance = 15 + 13 // bits

	fastInput  = 16       // bytes that must be left for the fast loop
	fastOutput = 258 + 16 // the longest match, and what copies write behind it
)

// block decodes the symbols of a block.
func (s *state) block() error {
	done, err := s.fast()
	if done || err != nil {
		return err
	}
	for {
		s.fill()
		e := s.t.lit[s.buf&(1<<literalBits-1)]
		if e&moreFlag != 0 && e&literalFlag == 0 && e&otherFlag != 0 {
			if s.cnt < literalBits {
				return io.ErrUnexpectedEOF
			}
			s.buf >>= literalBits
			s.cnt -= literalBits
			e = s.t.lit[e>>16&0x7fff+uint32(s.buf&(1<<(e>>8&15)-1))]
		}
		n := int(e & 0xff)
		if e&literalFlag == 0 && e&otherFlag != 0 && e&endFlag == 0 {
			return s.bad()
		}
		if n > s.cnt {
			return io.ErrUnexpectedEOF
		}
		saved := s.buf
		s.buf >>= n
		s.cnt -= n
		switch {
		case e&literalFlag != 0:
			if s.out == len(s.dst) {
				return ErrLong
			}
			s.dst[s.out] = byte(e >> 16)
			s.out++
			continue
		case e&otherFlag != 0:
			return nil
		}
		length := int(e>>16) + int(saved&(1<<n-1)>>(e>>8&15))
		s.fill()
		e = s.t.dist[s.buf&(1<<distanceBits-1)]
		if e&otherFlag != 0 && e&moreFlag != 0 {
			if s.cnt < distanceBits {
				return io.ErrUnexpectedEOF
			}
			s.buf >>= distanceBits
			s.cnt -= distanceBits
			e = s.t.dist[e>>16+uint32(s.buf&(1<<(e>>8&15)-1))]
		}
		if e&otherFlag != 0 {
			return s.bad()
		}
		if n = int(e & 0xff); n > s.cnt {
			return io.ErrUnexpectedEOF
		}
		saved = s.buf
		s.buf >>= n
		s.cnt -= n
		distance := int(e>>16) + int(saved&(1<<n-1)>>(e>>8&15))
		if distance > s.out {
			return ErrCorrupt
		}
		fits := min(length, len(s.dst)-s.out)
		for range fits {
			s.dst[s.out] = s.dst[s.out-distance]
			s.out++
		}
		if fits < length {
			return ErrLong
		}
	}
}

// bad is the error of a code that does not exist: it may be that the input ends in it.
func (s *state) bad() error {
	if s.cnt < maxCode {
		return io.ErrUnexpectedEOF
	}
	return ErrCorrupt
}

// fast decodes symbols for as long as there is input and output in plenty. done: the
// block has ended.
//
// The entry of the next symbol is looked up before a match is copied, so that the one
// does not wait for the other. Of cnt only the low byte counts: entries are subtracted
// from it as a whole.
func (s *state) fast() (done bool, err error) {
	src, dst, t := s.src, s.dst, s.t
	pos, out, buf, cnt := s.pos, s.out, s.buf, uint32(s.cnt)
	if len(src)-pos < fastInput || len(dst)-out < fastOutput {
		return false, nil
	}
	// What is above cnt in the buffer is what is read again: the same bits.
	buf |= binary.LittleEndian.Uint64(src[pos:]) << (cnt & 63)
	pos += int(^cnt >> 3 & 7)
	cnt |= 56
	e := t.lit[buf&(1<<literalBits-1)]
	for {
		before := buf
		buf >>= e & 63
		cnt -= e
		if e&literalFlag != 0 {
			dst[out] = byte(e >> 16)
			e = t.lit[buf&(1<<literalBits-1)]
			before = buf
			buf >>= e & 63
			cnt -= e
			out++
			if e&literalFlag != 0 {
				dst[out] = byte(e >> 16)
				e = t.lit[buf&(1<<literalBits-1)]
				before = buf
				buf >>= e & 63
				cnt -= e
				out++
				if e&literalFlag != 0 {
					dst[out] = byte(e >> 16)
					out++
					if len(src)-pos < fastInput || len(dst)-out < fastOutput {
						break
					}
					buf |= binary.LittleEndian.Uint64(src[pos:]) << (cnt & 63)
					pos += int(^cnt >> 3 & 7)
					cnt |= 56
					e = t.lit[buf&(1<<literalBits-1)]
					continue
				}
			}
		}
		// At least 23 bits are left, with those of e: more than a length takes.
		if e&otherFlag != 0 {
			if e&moreFlag != 0 {
				e = t.lit[e>>16&0x7fff+uint32(buf&(1<<(e>>8&15)-1))]
				before = buf
				buf >>= e & 63
				cnt -= e
				if e&literalFlag != 0 {
					dst[out] = byte(e >> 16)
					out++
					if len(src)-pos < fastInput || len(dst)-out < fastOutput {
						break
					}
					buf |= binary.LittleEndian.Uint64(src[pos:]) << (cnt & 63)
					pos += int(^cnt >> 3 & 7)
					cnt |= 56
					e = t.lit[buf&(1<<literalBits-1)]
					continue
				}
			}
			if e&otherFlag != 0 {
				if done = e&endFlag != 0; !done {
					err = ErrCorrupt
				}
				break
			}
		}
		length := int(e>>16) + int(before&(1<<(e&31)-1)>>(e>>8&15))
		if uint8(cnt) < maxDistance {
			buf |= binary.LittleEndian.Uint64(src[pos:]) << (cnt & 63)
			pos += int(^cnt >> 3 & 7)
			cnt |= 56
		}
		e = t.dist[buf&(1<<distanceBits-1)]
		if e&otherFlag != 0 {
			if e&moreFlag == 0 {
				err = ErrCorrupt
				break
			}
			buf >>= distanceBits
			cnt -= distanceBits
			if e = t.dist[e>>16+uint32(buf&(1<<(e>>8&15)-1))]; e&otherFlag != 0 {
				err = ErrCorrupt
				break
			}
		}
		distance := int(e>>16) + int(buf&(1<<(e&31)-1)>>(e>>8&15))
		buf >>= e & 63
		cnt -= e
		if distance > out {
			err = ErrCorrupt
			break
		}
		from, end := out-distance, out+length
		more := len(src)-pos >= fastInput && len(dst)-end >= fastOutput
		if more {
			buf |= binary.LittleEndian.Uint64(src[pos:]) << (cnt & 63)
			pos += int(^cnt >> 3 & 7)
			cnt |= 56
			e = t.lit[buf&(1<<literalBits-1)]
		}
		switch {
		case distance >= 8:
			a, b := (*[16]byte)(dst[out:]), (*[16]byte)(dst[from:])
			binary.LittleEndian.PutUint64(a[:], binary.LittleEndian.Uint64(b[:]))
			binary.LittleEndian.PutUint64(a[8:], binary.LittleEndian.Uint64(b[8:]))
			if length > 16 {
				if distance >= length && length > 64 {
					copy(dst[out:end], dst[from:])
					break
				}
				for out, from = out+16, from+16; out < end; out, from = out+8, from+8 {
					binary.LittleEndian.PutUint64(dst[out:], binary.LittleEndian.Uint64(dst[from:]))
				}
			}
		case distance == 1:
			v := uint64(dst[from]) * 0x0101010101010101
			for ; out < end; out += 8 {
				binary.LittleEndian.PutUint64(dst[out:], v)
			}
		default:
			// Of each word the bytes up to the distance are right; the next one
			// overwrites the others.
			for ; out < end; out, from = out+distance, from+distance {
				binary.LittleEndian.PutUint64(dst[out:], binary.LittleEndian.Uint64(dst[from:]))
			}
		}
		out = end
		if !more {
			break
		}
	}
	// Bits above cnt are read again by who goes on.
	s.pos, s.out, s.cnt = pos, out, int(cnt&63)
	s.buf = buf & (1<<s.cnt - 1)
	return done, err
}
