package squashfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/cowl-disk/cowl/fstree"
)

// Image is an open image. It may be used by several goroutines.
type Image struct {
	r        io.ReaderAt
	size     int64
	sb       superblock
	unpacker *unpacker
	ids      []uint32
	// fragIndex and xattrIndex are where the metadata blocks of those tables are.
	fragIndex, xattrIndex []uint64
	xattrValues           int64 // where the attributes' metadata begins
	xattrCount            uint32

	mu   sync.Mutex
	meta cache // unpacked metadata blocks by their position
	data cache // unpacked data blocks
}

// Open opens an image of size bytes. r stays the caller's.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	i := &Image{r: r, size: size, meta: newCache(256), data: newCache(16)}
	var head [superblockSize]byte
	if size < superblockSize {
		return nil, fmt.Errorf("%w: %d bytes are no image", ErrFormat, size)
	}
	if err := readFull(r, head[:], 0); err != nil {
		return nil, err
	}
	var err error
	if i.sb, err = decodeSuperblock(head[:], size); err != nil {
		return nil, err
	}
	if i.unpacker, err = newUnpacker(i.sb.compression); err != nil {
		return nil, err
	}
	index, err := i.index(i.sb.idTable, int64(i.sb.ids)*4)
	if err != nil {
		return nil, err
	}
	ids, err := i.table(index, 0, int64(i.sb.ids)*4)
	if err != nil {
		return nil, fmt.Errorf("table of owners: %w", err)
	}
	for k := range int(i.sb.ids) {
		i.ids = append(i.ids, binary.LittleEndian.Uint32(ids[4*k:]))
	}
	if i.sb.fragments > 0 {
		if i.fragIndex, err = i.index(i.sb.fragTable, int64(i.sb.fragments)*16); err != nil {
			return nil, fmt.Errorf("table of fragments: %w", err)
		}
	}
	if i.sb.xattrTable == none64 {
		return i, nil
	}
	var b [16]byte
	if i.sb.xattrTable > i.sb.used-16 {
		return nil, fmt.Errorf("%w: table of attributes at %d", ErrFormat, i.sb.xattrTable)
	}
	if err := readFull(r, b[:], int64(i.sb.xattrTable)); err != nil {
		return nil, err
	}
	i.xattrValues, i.xattrCount = int64(binary.LittleEndian.Uint64(b[:])), binary.LittleEndian.Uint32(b[8:])
	i.xattrIndex, err = i.index(i.sb.xattrTable+16, int64(i.xattrCount)*16)
	if err != nil {
		return nil, fmt.Errorf("table of attributes: %w", err)
	}
	return i, nil
}

// OpenTree reads the tree of the image in a file, which stays open until the tree is closed.
func OpenTree(path string, o fstree.Options) (*fstree.Tree, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		var i *Image
		if i, err = Open(f, info.Size()); err == nil {
			var t *fstree.Tree
			if t, err = i.Tree(o); err == nil {
				t.OnClose(f)
				return t, nil
			}
		}
	}
	f.Close()
	return nil, fmt.Errorf("%s: %w", path, err)
}

// Compression returns how the image is compressed.
func (i *Image) Compression() Compression { return i.sb.compression }

// BlockSize returns the size of the image's blocks in bytes.
func (i *Image) BlockSize() int { return int(i.sb.blockSize) }

// index reads the positions of the metadata blocks of a table of size bytes.
func (i *Image) index(at uint64, size int64) ([]uint64, error) {
	blocks := (size + metaSize - 1) / metaSize
	if at > i.sb.used || uint64(blocks*8) > i.sb.used-at {
		return nil, fmt.Errorf("%w: a table of %d bytes at %d", ErrFormat, size, at)
	}
	b := make([]byte, blocks*8)
	if err := readFull(i.r, b, int64(at)); err != nil {
		return nil, err
	}
	list := make([]uint64, blocks)
	for k := range list {
		list[k] = binary.LittleEndian.Uint64(b[8*k:])
	}
	return list, nil
}

// table returns n bytes of a table from offset off on.
func (i *Image) table(index []uint64, off, n int64) ([]byte, error) {
	var out []byte
	for n > 0 {
		k, in := off/metaSize, off%metaSize
		if k >= int64(len(index)) {
			return nil, fmt.Errorf("%w: a record beyond the end of its table", ErrFormat)
		}
		b, _, err := i.metaBlock(int64(index[k]))
		if err != nil {
			return nil, err
		}
		if in >= int64(len(b)) {
			return nil, fmt.Errorf("%w: a table's metadata block is too short", ErrFormat)
		}
		got := b[in:min(int64(len(b)), in+n)]
		out = append(out, got...)
		off += int64(len(got))
		n -= int64(len(got))
	}
	return out, nil
}

// metaBlock returns the unpacked metadata block at a position, and where the next one is.
func (i *Image) metaBlock(at int64) (b []byte, next int64, err error) {
	if at < superblockSize || at > int64(i.sb.used)-2 {
		return nil, 0, fmt.Errorf("%w: a metadata block at %d", ErrFormat, at)
	}
	if c := i.cached(&i.meta, at); c != nil {
		return c.b, c.next, nil
	}
	var head [2]byte
	if err := readFull(i.r, head[:], at); err != nil {
		return nil, 0, err
	}
	h := binary.LittleEndian.Uint16(head[:])
	n := int64(h &^ metaRaw)
	if n == 0 || n > metaSize || n > int64(i.sb.used)-at-2 {
		return nil, 0, fmt.Errorf("%w: a metadata block of %d bytes at %d", ErrFormat, n, at)
	}
	packed := make([]byte, n)
	if err := readFull(i.r, packed, at+2); err != nil {
		return nil, 0, err
	}
	b = packed
	if h&metaRaw == 0 {
		var buf [metaSize]byte
		k, err := i.unpacker.unpack(buf[:], packed)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: the metadata block at %d: %w", ErrFormat, at, err)
		}
		b = append([]byte(nil), buf[:k]...)
	}
	next = at + 2 + n
	i.keep(&i.meta, at, b, next)
	return b, next, nil
}

// metaReader reads a stream of metadata.
type metaReader struct {
	i     *Image
	block int64 // the position of the block
	off   int   // in the unpacked block
}

// at returns a reader of the byte that a reference names, in the metadata from base on.
func (i *Image) at(base uint64, ref uint64) *metaReader {
	return &metaReader{i, int64(base + ref>>16), int(ref & 0xffff)}
}

func (m *metaReader) read(p []byte) error {
	for len(p) > 0 {
		b, next, err := m.i.metaBlock(m.block)
		if err != nil {
			return err
		}
		if m.off > len(b) || m.off == len(b) && len(b) < metaSize {
			return fmt.Errorf("%w: offset %d of the metadata block at %d, which has %d bytes", ErrFormat, m.off, m.block, len(b))
		}
		n := copy(p, b[m.off:])
		p = p[n:]
		if m.off += n; m.off == metaSize {
			m.block, m.off = next, 0
		}
	}
	return nil
}

// bytes reads n bytes.
func (m *metaReader) bytes(n int) ([]byte, error) {
	b := make([]byte, n)
	return b, m.read(b)
}

// cache keeps the blocks that were used last, roughly.
type cache struct {
	blocks map[int64]*cached
	queue  []int64
	most   int
}

type cached struct {
	b    []byte
	next int64
	used bool // since it was last considered for removal
}

func newCache(most int) cache { return cache{blocks: map[int64]*cached{}, most: most} }

func (i *Image) cached(c *cache, at int64) *cached {
	i.mu.Lock()
	defer i.mu.Unlock()
	k := c.blocks[at]
	if k != nil {
		k.used = true
	}
	return k
}

func (i *Image) keep(c *cache, at int64, b []byte, next int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if c.blocks[at] != nil {
		return
	}
	for len(c.queue) >= c.most {
		oldest := c.queue[0]
		c.queue = c.queue[1:]
		if k := c.blocks[oldest]; k.used {
			k.used = false
			c.queue = append(c.queue, oldest)
			continue
		}
		delete(c.blocks, oldest)
	}
	c.blocks[at] = &cached{b: b, next: next}
	c.queue = append(c.queue, at)
}
