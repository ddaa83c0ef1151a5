package ext4

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// crc32c is the checksum of ext4: not inverted, from a seed on.
func crc32c(seed uint32, p []byte) uint32 {
	return ^crc32.Update(^seed, castagnoli(), p)
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // one table, made once

// layout is where the tables are.
type layout struct {
	blocks       int64
	groups       int64
	perGroup     int64 // inodes
	descBlocks   int64
	reservedDesc int64
	tableBlocks  int64 // of the inodes of one group
	journal      int64 // blocks

	used   []byte // bitmap of blocks
	cursor int64  // where the search for free blocks goes on
	free   int64

	blockBitmap, inodeBitmap, inodeTable []int64 // by group
}

// newLayout places the tables of a file system for at least so many inodes.
func newLayout(o Options, inodes int64) (*layout, error) {
	l := &layout{blocks: o.Size / blockSize}
	if l.blocks < 64 || l.blocks > 1<<32-1 {
		return nil, fmt.Errorf("a size of %d bytes is not between 256 KiB and 16 TiB", o.Size)
	}
	per := o.BytesPerInode
	if per == 0 {
		per = 16384
	}
	if per < 1024 {
		return nil, fmt.Errorf("an inode for each %d bytes: at least 1024", per)
	}
	for {
		l.groups = (l.blocks + blocksPerGroup - 1) / blocksPerGroup
		l.descBlocks = (l.groups*descSize + blockSize - 1) / blockSize
		limit := min(l.blocks*1024, 1<<32-1)
		if o.ResizeLimit > 0 {
			limit = min(o.ResizeLimit/blockSize, 1<<32-1)
		}
		limitGroups := (limit + blocksPerGroup - 1) / blocksPerGroup
		l.reservedDesc = min(max(0, (limitGroups*descSize+blockSize-1)/blockSize-l.descBlocks), addrsPerBlock)
		want := max(l.blocks*blockSize/per, inodes)
		l.perGroup = ((want+l.groups-1)/l.groups + inodesPerBlock - 1) / inodesPerBlock * inodesPerBlock
		if l.perGroup > blocksPerGroup { // what the bitmap of a group can count
			if inodes > l.groups*blocksPerGroup {
				return nil, fmt.Errorf("%w: %d inodes in %d block groups", ErrNoSpace, inodes, l.groups)
			}
			l.perGroup = blocksPerGroup
		}
		l.tableBlocks = l.perGroup / inodesPerBlock
		rest := l.blocks - (l.groups-1)*blocksPerGroup
		need := 2 + l.tableBlocks + 50
		if l.backup(l.groups - 1) {
			need += 1 + l.descBlocks + l.reservedDesc
		}
		if rest >= need {
			break
		}
		if l.groups == 1 {
			return nil, fmt.Errorf("%w: %d blocks", ErrNoSpace, l.blocks)
		}
		l.blocks -= rest
	}
	l.used = make([]byte, (l.groups*blocksPerGroup)/8)
	l.free = l.blocks
	for b := l.blocks; b < l.groups*blocksPerGroup; b++ { // beyond the end
		l.used[b/8] |= 1 << (b % 8)
	}
	for g := range l.groups {
		if l.backup(g) {
			l.mark(g*blocksPerGroup, 1+l.descBlocks+l.reservedDesc)
		}
	}
	for first := int64(0); first < l.groups; first += flexGroups {
		count := min(flexGroups, l.groups-first)
		l.cursor = first * blocksPerGroup
		for _, t := range []struct {
			list   *[]int64
			blocks int64
		}{{&l.blockBitmap, 1}, {&l.inodeBitmap, 1}, {&l.inodeTable, l.tableBlocks}} {
			for range count {
				at, err := l.contiguous(t.blocks)
				if err != nil {
					return nil, err
				}
				*t.list = append(*t.list, at)
			}
		}
	}
	l.cursor = 0
	if !o.NoJournal {
		l.journal = journalBlocks(l.blocks)
	}
	return l, nil
}

// journalBlocks is what mke2fs takes.
func journalBlocks(blocks int64) int64 {
	for _, c := range []struct{ below, journal int64 }{{2048, 0}, {32768, 1024}, {256 << 10, 4096}, {512 << 10, 8192}, {4 << 20, 16384}, {8 << 20, 32768}, {16 << 20, 65536}, {32 << 20, 131072}} {
		if blocks < c.below {
			return c.journal
		}
	}
	return 262144
}

// backup reports whether a group has a superblock and the descriptors.
func (l *layout) backup(g int64) bool {
	if g <= 1 {
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		for p := base; p <= g; p *= base {
			if p == g {
				return true
			}
		}
	}
	return false
}

func (l *layout) isUsed(b int64) bool { return l.used[b/8]&(1<<(b%8)) != 0 }

func (l *layout) mark(b, n int64) {
	for i := b; i < b+n; i++ {
		if !l.isUsed(i) {
			l.used[i/8] |= 1 << (i % 8)
			l.free--
		}
	}
}

// run is a range of blocks.
type run struct{ at, n int64 }

// allocate takes up to n free blocks in one piece, from the cursor on.
func (l *layout) allocate(n int64) (run, error) {
	for l.cursor < l.blocks && l.isUsed(l.cursor) {
		if l.cursor%8 == 0 && l.used[l.cursor/8] == 0xff {
			l.cursor += 8
			continue
		}
		l.cursor++
	}
	if l.cursor >= l.blocks {
		return run{}, fmt.Errorf("%w: all %d blocks of %d bytes are used", ErrNoSpace, l.blocks, blockSize)
	}
	r := run{l.cursor, 0}
	for r.n < n && l.cursor < l.blocks && !l.isUsed(l.cursor) {
		r.n++
		l.cursor++
	}
	l.mark(r.at, r.n)
	return r, nil
}

// contiguous takes n free blocks in one piece, the first that there are from the cursor on.
func (l *layout) contiguous(n int64) (int64, error) {
	for at := l.cursor; at+n <= l.blocks; {
		free := int64(0)
		for free < n && !l.isUsed(at+free) {
			free++
		}
		if free == n {
			l.mark(at, n)
			return at, nil
		}
		at += free + 1
	}
	return 0, fmt.Errorf("%w: no room for a table of %d blocks", ErrNoSpace, n)
}

// descriptors encodes the group descriptors.
func (w *writer) descriptors() []byte {
	le := binary.LittleEndian
	l := w.layout
	out := make([]byte, l.descBlocks*blockSize)
	for g := range l.groups {
		d := out[g*descSize:][:descSize]
		put := func(low, high int, v int64) {
			le.PutUint32(d[low:], uint32(v))
			le.PutUint32(d[high:], uint32(v>>32))
		}
		put16 := func(low, high int, v int64) {
			le.PutUint16(d[low:], uint16(v))
			le.PutUint16(d[high:], uint16(v>>16))
		}
		put(0, 32, l.blockBitmap[g])
		put(4, 36, l.inodeBitmap[g])
		put(8, 40, l.inodeTable[g])
		free := int64(0)
		bitmap := l.used[g*blocksPerGroup/8:][:blockSize]
		for b := range int64(blocksPerGroup) {
			if bitmap[b/8]&(1<<(b%8)) == 0 {
				free++
			}
		}
		put16(12, 44, free)
		inodes := w.groupInodes(g)
		put16(14, 46, l.perGroup-inodes)
		put16(16, 48, w.dirsIn[g])
		le.PutUint16(d[18:], 4) // the inode table is zeroed
		put16(28, 50, l.perGroup-inodes)
		put16(24, 56, int64(crc32c(w.seed, bitmap)))
		put16(26, 58, int64(crc32c(w.seed, w.inodeBitmap(g)[:l.perGroup/8])))
		sum := crc32c(crc32c(w.seed, le.AppendUint32(nil, uint32(g))), d)
		le.PutUint16(d[30:], uint16(sum))
	}
	return out
}

// groupInodes is how many inodes of a group are used: they are its first ones.
func (w *writer) groupInodes(g int64) int64 {
	return min(max(w.lastInode-g*w.layout.perGroup, 0), w.layout.perGroup)
}

func (w *writer) inodeBitmap(g int64) []byte {
	b := make([]byte, blockSize)
	for i := range b {
		b[i] = 0xff
	}
	used := w.groupInodes(g)
	for i := used; i < w.layout.perGroup; i++ {
		b[i/8] &^= 1 << (i % 8)
	}
	return b
}

// superblock encodes the superblock of a group.
func (w *writer) superblock(g int64) []byte {
	le := binary.LittleEndian
	l, o := w.layout, w.options
	b := make([]byte, 1024)
	p32 := func(at int, v int64) { le.PutUint32(b[at:], uint32(v)) }
	p16 := func(at int, v int64) { le.PutUint16(b[at:], uint16(v)) }
	reserved := l.blocks * int64(o.ReservedPercent) / 100
	p32(0x00, l.groups*l.perGroup)
	p32(0x04, l.blocks)
	p32(0x08, reserved)
	p32(0x0c, l.free)
	p32(0x10, l.groups*l.perGroup-w.lastInode)
	p32(0x18, 2) // blocks of 1024<<2 bytes
	p32(0x1c, 2)
	p32(0x20, blocksPerGroup)
	p32(0x24, blocksPerGroup)
	p32(0x28, l.perGroup)
	p32(0x30, w.now)
	p16(0x36, -1) // mounts until a check
	p16(0x38, 0xef53)
	p16(0x3a, 1) // clean
	p16(0x3c, 1) // go on after errors
	p32(0x40, w.now)
	p32(0x4c, 1) // revision
	p32(0x54, firstInode)
	p16(0x58, inodeSize)
	p16(0x5a, g)
	compat := int64(compatXattr | compatResize | compatDirIndex)
	if l.journal > 0 {
		compat |= compatJournal
	}
	if l.reservedDesc == 0 {
		compat &^= compatResize
	}
	p32(0x5c, compat)
	p32(0x60, incompatFiletype|incompatExtents|incompat64|incompatFlex)
	p32(0x64, roSparseSuper|roLargeFile|roHugeFile|roDirNlink|roExtraSize|roChecksums)
	copy(b[0x68:0x78], w.uuid[:])
	copy(b[0x78:0x88], o.Label)
	p16(0xce, l.reservedDesc)
	copy(b[0xec:0xfc], w.hashSeed[:])
	b[0xfc] = hashHalfMD4
	p16(0xfe, descSize)
	p32(0x100, 0x0c) // mount with user attributes and access control lists
	p32(0x108, w.now)
	if l.journal > 0 {
		p32(0xe0, journalInode)
		b[0xfd] = 1 // a copy of the journal's inode follows
		copy(b[0x10c:], w.journalBlock[:])
		p32(0x10c+15*4, l.journal*blockSize>>32)
		p32(0x10c+16*4, l.journal*blockSize)
	}
	p16(0x15c, extraSize)
	p16(0x15e, extraSize)
	p32(0x160, 1) // characters are signed in the hashes of names
	b[0x174] = 4  // 1<<4 groups in a flexible one
	b[0x175] = 1  // checksums are CRC32C
	p32(0x3fc, int64(crc32c(1<<32-1, b[:0x3fc])))
	return b
}
