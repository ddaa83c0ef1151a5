package squashfs

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/cowl-disk/cowl/fstree"
)

// maxBlocks bounds the list of blocks of an open file: 2 TiB of the usual blocks.
const maxBlocks = 1 << 24

// imageFile is a file of an image.
type imageFile struct {
	i                    *Image
	start                uint64
	size                 int64
	fragment, fragOffset uint32
	list                 metaReader // where the sizes of the blocks are
}

// Open reads the list of the file's blocks.
func (f *imageFile) Open() (fstree.Reader, error) {
	bs := int64(f.i.sb.blockSize)
	r := &openImageFile{f: f}
	count := f.size / bs
	if f.size%bs > 0 && f.fragment == none32 {
		count++
	}
	if count > maxBlocks {
		return nil, fmt.Errorf("a file of %d blocks: %w", count, fstree.ErrLimit)
	}
	list := f.list
	at := f.start
	for done := int64(0); done < count; { // in pieces: what is not there is not reserved
		b, err := list.bytes(int(min(count-done, 4096)) * 4)
		if err != nil {
			return nil, err
		}
		for ; len(b) > 0; b = b[4:] {
			word := binary.LittleEndian.Uint32(b)
			n := uint64(word &^ dataRaw)
			if n > uint64(bs) || n > 0 && (at < superblockSize || at+n > f.i.sb.used) {
				return nil, fmt.Errorf("%w: a block of %d bytes at %d", ErrFormat, word, at)
			}
			if done%blocksMark == 0 {
				r.marks = append(r.marks, at)
			}
			r.words = append(r.words, word)
			at += n
			done++
		}
	}
	if f.fragment != none32 {
		if f.fragment >= f.i.sb.fragments || int64(f.fragOffset)+f.size%bs > bs {
			return nil, fmt.Errorf("%w: fragment %d of %d at %d", ErrFormat, f.fragment, f.i.sb.fragments, f.fragOffset)
		}
	}
	return r, nil
}

// blocksMark is after how many blocks a position is kept.
const blocksMark = 64

type openImageFile struct {
	f     *imageFile
	words []uint32
	marks []uint64 // positions of each blocksMark-th block
}

func (r *openImageFile) Close() error { return nil }

func (r *openImageFile) NextData(off int64) (start, end int64, err error) {
	bs := int64(r.f.i.sb.blockSize)
	k := off / bs
	rest := r.words[min(k, int64(len(r.words))):]
	hole := len(rest)
	for n, word := range rest {
		if word != 0 {
			hole = n
			break
		}
	}
	start = max(off, (k+int64(hole))*bs)
	if start >= r.f.size || hole == len(rest) && r.f.fragment == none32 {
		return r.f.size, r.f.size, nil
	}
	for n, word := range rest[hole:] {
		if word == 0 {
			return start, (k + int64(hole+n)) * bs, nil
		}
	}
	return start, r.f.size, nil
}

func (r *openImageFile) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off > r.f.size {
		return 0, io.EOF
	}
	if int64(len(p)) > r.f.size-off {
		p, err = p[:r.f.size-off], io.EOF
	}
	bs := int64(r.f.i.sb.blockSize)
	for n < len(p) {
		at := off + int64(n)
		b, blockErr := r.block(at / bs)
		if blockErr != nil {
			return n, blockErr
		}
		if b == nil { // a hole
			k := int(min(int64(len(p)-n), bs-at%bs))
			clear(p[n:][:k])
			n += k
			continue
		}
		if at%bs >= int64(len(b)) {
			return n, fmt.Errorf("%w: the block at %d of the file has %d bytes", ErrFormat, at/bs*bs, len(b))
		}
		n += copy(p[n:], b[at%bs:])
	}
	return n, err
}

// block returns block k of the file, nil for a hole.
func (r *openImageFile) block(k int64) ([]byte, error) {
	i, bs := r.f.i, int64(r.f.i.sb.blockSize)
	if k >= int64(len(r.words)) {
		record, err := i.table(i.fragIndex, int64(r.f.fragment)*16, 16)
		if err != nil {
			return nil, err
		}
		b, err := i.dataBlock(binary.LittleEndian.Uint64(record), binary.LittleEndian.Uint32(record[8:]))
		if err != nil {
			return nil, err
		}
		from, n := int64(r.f.fragOffset), r.f.size%bs
		if from+n > int64(len(b)) {
			return nil, fmt.Errorf("%w: fragment %d has %d bytes", ErrFormat, r.f.fragment, len(b))
		}
		return b[from : from+n], nil
	}
	if r.words[k] == 0 {
		return nil, nil
	}
	at := r.marks[k/blocksMark]
	for _, word := range r.words[k/blocksMark*blocksMark : k] {
		at += uint64(word &^ dataRaw)
	}
	b, err := i.dataBlock(at, r.words[k])
	if err == nil && int64(len(b)) != min(bs, r.f.size-k*bs) {
		err = fmt.Errorf("%w: the block at %d unpacks to %d bytes", ErrFormat, at, len(b))
	}
	return b, err
}

// dataBlock returns an unpacked data block.
func (i *Image) dataBlock(at uint64, word uint32) ([]byte, error) {
	n := uint64(word &^ dataRaw)
	if n == 0 || n > uint64(i.sb.blockSize) || at < superblockSize || at > i.sb.used || n > i.sb.used-at {
		return nil, fmt.Errorf("%w: a block of %d bytes at %d", ErrFormat, n, at)
	}
	if c := i.cached(&i.data, int64(at)); c != nil && c.next == int64(word) {
		return c.b, nil
	}
	packed := make([]byte, n)
	if err := readFull(i.r, packed, int64(at)); err != nil {
		return nil, err
	}
	b := packed
	if word&dataRaw == 0 {
		b = make([]byte, i.sb.blockSize)
		k, err := i.unpacker.unpack(b, packed)
		if err != nil {
			return nil, fmt.Errorf("%w: the block at %d: %w", ErrFormat, at, err)
		}
		b = b[:k]
	}
	i.keep(&i.data, int64(at), b, int64(word))
	return b, nil
}
