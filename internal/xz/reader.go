package xz

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// ErrFormat: the stream is damaged or not of this format.
var ErrFormat = errors.New("damaged xz stream")

// ErrDictionary: the stream asks for a larger dictionary than the reader allows.
var ErrDictionary = errors.New("the xz stream asks for too large a dictionary")

// Magic is what a stream begins with.
const Magic = "\xfd7zXZ\x00"

// The checks of a block (section 2.1.1.2).
const (
	checkNone   = 0x00
	checkCRC32  = 0x01
	checkCRC64  = 0x04
	checkSHA256 = 0x0a
)

// checkSizes are the bytes of a check by its number.
var checkSizes = [16]int{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}

const lzma2Filter = 0x21

// Reader decompresses one stream or several in a row. The check of a block, the sizes
// and the index are verified.
type Reader struct {
	in      *counter
	maxDict int64
	err     error

	first  bool // no stream has been read yet
	check  byte
	block  io.Reader // the data of the block, nil between blocks
	sum    hash.Hash
	header blockHeader
	start  int64 // where the block header began
	size   int64 // bytes of the block so far
	// records is the hash of what the index must hold: one pair of sizes a block.
	records hash.Hash32
	blocks  uint64
}

// counter counts what is read of a stream.
type counter struct {
	*bufio.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadByte() (byte, error) {
	b, err := c.Reader.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// NewReader reads from r, which may be read beyond the end of the streams. maxDict is the
// largest dictionary in bytes.
func NewReader(r io.Reader, maxDict int64) *Reader {
	return &Reader{in: &counter{Reader: bufio.NewReaderSize(r, 64<<10)}, maxDict: maxDict, first: true}
}

func (r *Reader) full(p []byte) error {
	if _, err := io.ReadFull(r.in, p); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return fmt.Errorf("%w: %w", ErrFormat, io.ErrUnexpectedEOF)
		}
		return err
	}
	return nil
}

func (r *Reader) Read(p []byte) (n int, err error) {
	for r.err == nil && n == 0 && len(p) > 0 {
		n, r.err = r.read(p)
	}
	if n > 0 {
		return n, nil
	}
	return 0, r.err
}

func (r *Reader) read(p []byte) (n int, err error) {
	if r.block == nil {
		return 0, r.next()
	}
	n, err = r.block.Read(p)
	r.sum.Write(p[:n])
	r.size += int64(n)
	switch {
	case err == io.EOF:
		err = r.endBlock()
	case err != nil:
		err = fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return n, err
}

// next begins the next block; at the end of a stream, the next stream.
func (r *Reader) next() error {
	if r.records == nil {
		return r.beginStream()
	}
	r.start = r.in.n
	size, err := r.in.ReadByte()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, io.ErrUnexpectedEOF)
	}
	if size == 0 {
		return r.endStream()
	}
	b := make([]byte, (int(size)+1)*4)
	b[0] = size
	if err := r.full(b[1:]); err != nil {
		return err
	}
	if r.header, err = parseBlockHeader(b); err != nil {
		return err
	}
	if r.header.dict > r.maxDict {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrDictionary, r.header.dict, r.maxDict)
	}
	r.size = 0
	r.sum.Reset()
	r.block, err = lzma.Reader2Config{DictCap: int(max(r.header.dict, lzma.MinDictCap))}.NewReader2(r.in)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return nil
}

func (r *Reader) beginStream() error {
	var b [12]byte
	// streams may be followed by zeros, in fours
	for {
		if _, err := io.ReadFull(r.in, b[:4]); err == io.EOF && !r.first {
			return io.EOF
		} else if err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, io.ErrUnexpectedEOF)
		}
		if r.first || string(b[:4]) != "\x00\x00\x00\x00" {
			break
		}
	}
	r.first = false
	if err := r.full(b[4:]); err != nil {
		return err
	}
	if string(b[:6]) != Magic || crc32.ChecksumIEEE(b[6:8]) != binary.LittleEndian.Uint32(b[8:]) || b[6] != 0 || b[7] > 15 {
		return fmt.Errorf("%w: no stream header", ErrFormat)
	}
	r.check = b[7]
	switch r.check {
	case checkCRC32:
		r.sum = crc32.NewIEEE()
	case checkCRC64:
		r.sum = crc64.New(crc64.MakeTable(crc64.ECMA))
	case checkSHA256:
		r.sum = sha256.New()
	default:
		r.sum = noSum{crc32.NewIEEE()}
	}
	r.records, r.blocks = crc32.New(crc32.MakeTable(crc32.Castagnoli)), 0
	return nil
}

// noSum is the check of streams that have none, or one that is not known.
type noSum struct{ hash.Hash }

func (noSum) Write(p []byte) (int, error) { return len(p), nil }

func (r *Reader) endBlock() error {
	unpadded := r.in.n - r.start + int64(checkSizes[r.check])
	packed := r.in.n - r.start - int64(r.header.length)
	if r.header.packed >= 0 && r.header.packed != packed || r.header.unpacked >= 0 && r.header.unpacked != r.size {
		return fmt.Errorf("%w: the size of a block is wrong", ErrFormat)
	}
	var pad [3]byte
	if err := r.full(pad[:-packed&3]); err != nil {
		return err
	}
	stored := make([]byte, checkSizes[r.check])
	if err := r.full(stored); err != nil {
		return err
	}
	sum := r.sum.Sum(nil)
	if r.check == checkCRC32 || r.check == checkCRC64 { // stored as little-endian numbers
		for i, j := 0, len(sum)-1; i < j; i, j = i+1, j-1 {
			sum[i], sum[j] = sum[j], sum[i]
		}
	}
	if _, unknown := r.sum.(noSum); pad != [3]byte{} || !unknown && !bytes.Equal(sum, stored) {
		return fmt.Errorf("%w: the checksum of a block is wrong", ErrFormat)
	}
	r.block = nil
	r.blocks++
	record(r.records, uint64(unpadded), uint64(r.size))
	return nil
}

// record adds the sizes of a block to a hash.
func record(h hash.Hash, unpadded, size uint64) {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], unpadded)
	binary.LittleEndian.PutUint64(b[8:], size)
	h.Write(b[:])
}

// endStream reads the index, whose first byte has been read, and the footer.
func (r *Reader) endStream() error {
	sum := crc32.NewIEEE()
	sum.Write([]byte{0})
	in := summed{r.in, sum}
	count, err := readNumber(in)
	if err != nil || count != r.blocks {
		return fmt.Errorf("%w: the index has %d blocks, not %d", ErrFormat, count, r.blocks)
	}
	records := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	for range count {
		unpadded, err := readNumber(in)
		if err != nil {
			return err
		}
		size, err := readNumber(in)
		if err != nil {
			return err
		}
		record(records, unpadded, size)
	}
	if records.Sum32() != r.records.Sum32() {
		return fmt.Errorf("%w: the index does not match the blocks", ErrFormat)
	}
	for (r.in.n-r.start)%4 != 0 {
		if b, err := in.ReadByte(); err != nil || b != 0 {
			return fmt.Errorf("%w: the padding of the index is wrong", ErrFormat)
		}
	}
	var b [16]byte
	if err := r.full(b[:]); err != nil {
		return err
	}
	backward := (int64(binary.LittleEndian.Uint32(b[8:])) + 1) * 4
	if binary.LittleEndian.Uint32(b[:]) != sum.Sum32() || crc32.ChecksumIEEE(b[8:14]) != binary.LittleEndian.Uint32(b[4:]) ||
		string(b[14:]) != "YZ" || b[12] != 0 || b[13] != r.check || backward != r.in.n-r.start-12 {
		return fmt.Errorf("%w: the index or the stream footer is wrong", ErrFormat)
	}
	r.records = nil
	return nil
}

// summed hashes what is read.
type summed struct {
	r   io.ByteReader
	sum hash.Hash
}

func (s summed) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err == nil {
		s.sum.Write([]byte{b})
	}
	return b, err
}

// readNumber reads a number of variable length (section 1.2).
func readNumber(r io.ByteReader) (v uint64, err error) {
	for i := range 9 {
		b, err := r.ReadByte()
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrFormat, io.ErrUnexpectedEOF)
		}
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			if b == 0 && i > 0 {
				break
			}
			return v, nil
		}
	}
	return 0, fmt.Errorf("%w: a number is too long", ErrFormat)
}
