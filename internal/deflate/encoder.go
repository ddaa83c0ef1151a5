package deflate

import (
	"encoding/binary"
	"math"
	"sync"
)

// Encoder compresses buffers, one at a time. The zero value is ready for use.
type Encoder struct {
	// Hasty has buffers of less than 16 KiB compressed in two thirds of the time, to a hundredth more on disks.
	Hasty bool

	quick quickTables

	head3 [1 << hashBits3]entry // by the hash of three bytes
	head4 [1 << hashBits4]entry // by the hash of four
	prev  [maxDistance]uint16   // for each position the one before it in head4

	// far is, by the length of a match, the longest distance at which it takes fewer bits
	// than its bytes one by one.
	far     [maxMatch + 2]int32
	perByte float64 // the entropy of the buffer, in bits
	counted int     // the length of the buffer if each byte of it is in the entropy, else 0
	quiet   int     // places without a match since the last one
	chain   int     // maxChain, less where matches rarely are
	careful bool    // how the block is parsed

	// The block under way: its sequences, the end of the last one, and how many of its
	// tokens there are before there.
	sequences []sequence
	anchor    int
	tokens    int

	lits   [286]int32
	dists  [30]int32
	blocks [2]dynamicBlock
	w      bitWriter
}

// Append appends src, compressed, to dst. It gives up and returns dst once more than
// limit bytes would be appended; ok tells which. src has less than 1 GiB.
func (e *Encoder) Append(dst, src []byte, limit int) (out []byte, ok bool) {
	e.reset(src)
	e.w = bitWriter{out: dst}
	limit += len(dst)
	n := len(src)
	for i := 0; ; {
		i = e.parse(src, i)
		e.flush(src[e.w.start:i], i == n)
		e.w.start = i
		if i == n || len(e.w.out) > limit {
			break
		}
	}
	e.w.align()
	out, e.w.out = e.w.out, nil
	if len(out) > limit {
		return dst, false
	}
	return out, true
}

func (e *Encoder) reset(src []byte) {
	e.price(src)
	e.quiet = 0
	small := len(src) < smallBuffer
	if e.careful = small && !e.Hasty; e.careful {
		e.clear()
	} else {
		e.quick.reset(small)
	}
	if e.sequences == nil {
		// More only where one match follows the other.
		e.sequences = make([]sequence, 0, blockTokens/4)
	}
}

// clear empties the tables of the careful parser. What is in prev is reached from there.
func (e *Encoder) clear() { e.head3, e.head4 = [1 << hashBits3]entry{}, [1 << hashBits4]entry{} }

// parse makes the sequences of a block from src[i:] and returns where it ends.
func (e *Encoder) parse(src []byte, i int) int {
	if !e.careful {
		end := e.parseQuick(src, i)
		if !e.worthCare(end-i, end-i-e.literals(end)) {
			return end
		}
		// So it is to the end: what a buffer begins with it goes on with.
		e.careful = true
		e.clear()
	}
	return e.parseCarefully(src, i)
}

// worthCare tells from how many bytes of a block matches cover whether those that only
// the careful parser finds would make a difference. The bounds come from trying both
// on disks, programs, text, logs, and numbers.
func (e *Encoder) worthCare(size, covered int) bool {
	mean := covered / max(1, len(e.sequences))
	switch {
	case covered < size/8*3: // tables of numbers
		return e.perByte < 7.5
	case covered > size/8*7: // much alike, as lines of a log
		return mean >= 10 && mean < 14
	}
	return e.perByte < 2.5 && mean < 8 // few letters
}

// begin begins a block at a place.
func (e *Encoder) begin(i int) {
	e.sequences, e.anchor, e.tokens = e.sequences[:0], i, 0
}

// room is how many tokens the block has room for if there is no match before i.
func (e *Encoder) room(i int) int { return blockTokens - e.tokens - (i - e.anchor) }

// add adds a match, and the literals before it.
func (e *Encoder) add(i, length, distance int) {
	literals := uint32(i - e.anchor)
	e.anchor = i + length
	e.tokens += int(literals) + 1
	for length > maxMatch {
		// What remains is long enough for a match of its own.
		n := min(maxMatch, length-minMatch)
		e.sequences = append(e.sequences, sequence{literals, uint16(n), uint16(distance - 1)})
		e.tokens++
		literals = 0
		length -= n
	}
	e.sequences = append(e.sequences, sequence{literals, uint16(length), uint16(distance - 1)})
}

// literals is how many bytes of the block that ends at a place are in no match.
func (e *Encoder) literals(end int) int {
	return e.tokens - len(e.sequences) + end - e.anchor
}

// price derives from the entropy of src which matches are worth it.
func (e *Encoder) price(src []byte) {
	// Of large buffers a quarter of the words is looked at.
	step := 8
	if len(src) >= smallBuffer {
		step = 32
	}
	// Two tables, so that an equal byte does not wait for the one before.
	var counts, odd [256]int32
	all := 0
	rest := src
	for ; len(rest) >= step; rest = rest[step:] {
		v := binary.LittleEndian.Uint64(rest)
		counts[uint8(v)]++
		odd[uint8(v>>8)]++
		counts[uint8(v>>16)]++
		odd[uint8(v>>24)]++
		counts[uint8(v>>32)]++
		odd[uint8(v>>40)]++
		counts[uint8(v>>48)]++
		odd[uint8(v>>56)]++
		all += 8
	}
	for _, b := range rest {
		counts[b]++
	}
	all += len(rest)
	if e.counted = 0; all == len(src) {
		e.counted = all
	}
	logs := timesLog()
	sum := 0.0
	for b, n := range counts {
		n += odd[b]
		if int(n) < len(logs) {
			sum += logs[n]
		} else {
			sum += float64(n) * math.Log2(float64(n))
		}
	}
	e.perByte = 0
	if all > 0 {
		e.perByte = math.Log2(float64(all)) - sum/float64(all)
	}
	e.chain = maxChain
	if e.perByte < 2.5 {
		e.chain /= 4
	}
	perByte := max(e.perByte, 1) // no code is shorter
	for l := range e.far {
		e.far[l] = maxDistance
		if bits := float64(l)*perByte - matchBits; bits < 15 {
			e.far[l] = int32(math.Exp2(bits))
		}
	}
}

// timesLog has n times its logarithm to base 2, for the small counts that most are.
var timesLog = sync.OnceValue(func() *[256]float64 {
	var t [256]float64
	for n := 2; n < len(t); n++ {
		t[n] = float64(n) * math.Log2(float64(n))
	}
	return &t
})
