package ext4

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/internal/zero"
)

// Write writes a file system from offset 0 of w on. What is not written must read as
// zeros. The tree must not be changed meanwhile. A tree without a directory lost+found
// gets one.
func Write(ctx context.Context, w io.WriterAt, root *fstree.Node, o Options) (*Report, error) {
	if root.Kind != fstree.Dir {
		return nil, fmt.Errorf("the root of the tree is a %s", root.Kind)
	}
	if len(o.Label) > 16 || o.ReservedPercent < 0 || o.ReservedPercent > 50 {
		return nil, fmt.Errorf("label %q of at most 16 bytes, %d%% reserved of at most 50", o.Label, o.ReservedPercent)
	}
	e := &writer{ctx: ctx, w: w, options: o, report: &Report{}, numbers: map[*fstree.Node]*entry{}, shared: map[string]*xattrBlock{}, buf: make([]byte, 1<<20)}
	if err := e.number(root); err != nil {
		return nil, err
	}
	var err error
	if e.layout, err = newLayout(o, e.lastInode); err != nil {
		return nil, err
	}
	e.dirsIn = make([]int64, e.layout.groups)
	if err := e.write(); err != nil {
		return nil, err
	}
	l := e.layout
	e.report.Size, e.report.Free = l.blocks*blockSize, l.free*blockSize
	e.report.Inodes, e.report.FreeInodes, e.report.UUID = l.groups*l.perGroup, l.groups*l.perGroup-e.lastInode, e.uuid
	return e.report, nil
}

// entry is a node with its number.
type entry struct {
	*fstree.Node
	path   string
	number int64
	parent int64
	links  int64
}

// writer is one run of Write.
type writer struct {
	ctx     context.Context
	w       io.WriterAt
	options Options
	report  *Report
	layout  *layout

	entries   []*entry // in the order of their paths
	numbers   map[*fstree.Node]*entry
	lastInode int64
	dirsIn    []int64 // directories by group

	uuid, hashSeed [16]byte
	seed           uint32 // of checksums
	now            int64
	journalBlock   [60]byte // of the journal's inode

	shared      map[string]*xattrBlock
	xattrBlocks []*xattrBlock

	table   []byte // inodes to be written
	tableAt int64
	buf     []byte
}

const lostFound = "lost+found"

// number gives the nodes their inodes, in the order of their paths, and derives what
// depends on the tree.
func (w *writer) number(root *fstree.Node) error {
	sum := sha256.New()
	fmt.Fprintf(sum, "%d %d %q\n", w.options.Size, w.options.BytesPerInode, w.options.Label)
	latest := root.ModTime
	next := int64(firstInode + 1)
	var visit func(n *fstree.Node, path string, parent int64) error
	visit = func(n *fstree.Node, path string, parent int64) error {
		if e := w.numbers[n]; e != nil {
			if n.Kind == fstree.Dir {
				return fmt.Errorf("%q: the directory is in the tree twice", path)
			}
			e.links++
			fmt.Fprintf(sum, "%q = %d\n", path, e.number)
			return nil
		}
		e := &entry{Node: n, path: path, parent: parent, links: 1}
		switch {
		case parent == 0:
			e.number, e.parent = rootInode, rootInode
		case path == "/"+lostFound && n.Kind == fstree.Dir:
			e.number = firstInode
		default:
			e.number = next
			next++
		}
		if modes[n.Kind] == 0 || n.Mode > 0o7777 {
			return fmt.Errorf("%q: a %s with mode %o", path, n.Kind, n.Mode)
		}
		w.numbers[n] = e
		w.entries = append(w.entries, e)
		fmt.Fprintf(sum, "%q %d %o %d:%d %d %d:%d %q %d\n", path, n.Kind, n.Mode, n.UID, n.GID, n.ModTime.UnixNano(), n.Major, n.Minor, n.Target, n.Size)
		for _, x := range n.Xattrs {
			fmt.Fprintf(sum, "%q=%q\n", x.Name, x.Value)
		}
		if n.ModTime.After(latest) {
			latest = n.ModTime
		}
		if n.Kind != fstree.Dir {
			return nil
		}
		e.links = 2
		for _, c := range n.Children() {
			if c.Node.Kind == fstree.Dir {
				e.links++
			}
			if err := visit(c.Node, path+"/"+c.Name, e.number); err != nil {
				return err
			}
		}
		return nil
	}
	if err := visit(root, "", 0); err != nil {
		return err
	}
	if c := root.Child(lostFound); c == nil {
		w.entries[0].links++
		w.entries = append(w.entries, &entry{Node: &fstree.Node{Kind: fstree.Dir, Mode: 0o700, ModTime: root.ModTime}, path: "/" + lostFound, number: firstInode, parent: rootInode, links: 2})
	} else if c.Kind != fstree.Dir {
		return fmt.Errorf("%q is a %s, but file systems need a directory there", "/"+lostFound, c.Kind)
	}
	w.lastInode = next - 1
	if !w.options.Time.IsZero() {
		latest = w.options.Time
	}
	w.now = min(max(latest.Unix(), 1), 1<<32-1)
	derived := sum.Sum(nil)
	if w.uuid = w.options.UUID; w.uuid == [16]byte{} {
		w.uuid = asUUID(derived[:16])
	}
	if w.hashSeed = w.options.HashSeed; w.hashSeed == [16]byte{} {
		w.hashSeed = asUUID(derived[16:])
	}
	w.seed = crc32c(1<<32-1, w.uuid[:])
	return nil
}

// asUUID marks bytes as a random UUID (RFC 9562, section 5.4).
func asUUID(b []byte) (u [16]byte) {
	copy(u[:], b)
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return u
}

// lose notes what the file system does not hold.
func (w *writer) lose(text string) {
	if !slices.Contains(w.report.Lost, text) && len(w.report.Lost) < 100 {
		w.report.Lost = append(w.report.Lost, text)
	}
}

func (w *writer) put(what string, b []byte, at int64) error {
	if _, err := w.w.WriteAt(b, at); err != nil {
		return fmt.Errorf("write %s at %d: %w", what, at, err)
	}
	return nil
}

func (w *writer) write() error {
	if err := w.writeJournal(); err != nil {
		return err
	}
	if err := w.writeResize(); err != nil {
		return err
	}
	for _, e := range w.entries {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.node(e); err != nil {
			return fmt.Errorf("%q: %w", e.path, err)
		}
	}
	if err := w.flushInodes(); err != nil {
		return err
	}
	if err := w.writeXattrs(); err != nil {
		return err
	}
	l := w.layout
	for g := range l.groups {
		if err := w.put("a bitmap of blocks", l.used[g*blocksPerGroup/8:][:blockSize], l.blockBitmap[g]*blockSize); err != nil {
			return err
		}
		if err := w.put("a bitmap of inodes", w.inodeBitmap(g), l.inodeBitmap[g]*blockSize); err != nil {
			return err
		}
	}
	if last := l.blocks - 1; !l.isUsed(last) { // the file has its size
		if err := w.put("the last block", make([]byte, blockSize), last*blockSize); err != nil {
			return err
		}
	}
	descriptors := w.descriptors()
	for g := l.groups - 1; g >= 0; g-- { // the first superblock last
		if !l.backup(g) {
			continue
		}
		at := g * blocksPerGroup * blockSize
		if err := w.put("group descriptors", descriptors, at+blockSize); err != nil {
			return err
		}
		if g == 0 {
			at = 1024
		}
		if err := w.put("a superblock", w.superblock(g), at); err != nil {
			return err
		}
	}
	return nil
}

// node writes an inode and what belongs to it.
func (w *writer) node(e *entry) error {
	n := &inode{number: e.number, mode: modes[e.Kind] | e.Mode, uid: e.UID, gid: e.GID, links: e.links, size: e.Size, time: e.ModTime}
	var err error
	switch e.Kind {
	case fstree.Dir:
		err = w.directory(n, e)
	case fstree.File:
		err = w.file(n, e)
	case fstree.Symlink:
		err = w.symlink(n, e.Target)
	case fstree.CharDevice, fstree.BlockDevice:
		n.size = 0
		err = n.setDevice(e.Major, e.Minor)
	default:
		n.size = 0
	}
	if err != nil {
		return err
	}
	if e.Kind != fstree.Dir && e.links > maxLinks {
		return fmt.Errorf("%d hard links are more than ext4 has (%d)", e.links, maxLinks)
	}
	attributes, err := w.attributes(e.Node)
	if err != nil {
		return err
	}
	if err := w.setAttributes(n, attributes); err != nil {
		return err
	}
	return w.putInode(n)
}

// putInode adds an inode to those that are written together.
func (w *writer) putInode(n *inode) error {
	l := w.layout
	g, k := (n.number-1)/l.perGroup, (n.number-1)%l.perGroup
	at := l.inodeTable[g]*blockSize + k*inodeSize
	if n.mode&0o170000 == modes[fstree.Dir] {
		w.dirsIn[g]++
	}
	if at != w.tableAt+int64(len(w.table)) || len(w.table) >= len(w.buf) {
		if err := w.flushInodes(); err != nil {
			return err
		}
		w.tableAt = at
	}
	w.table = append(w.table, w.encode(n)...)
	return nil
}

func (w *writer) flushInodes() error {
	if len(w.table) == 0 {
		return nil
	}
	err := w.put("inodes", w.table, w.tableAt)
	w.table = w.table[:0]
	return err
}

func (w *writer) directory(n *inode, e *entry) error {
	var list []dirEntry
	for _, c := range e.Children() {
		list = append(list, dirEntry{inode: w.numbers[c.Node].number, kind: fileTypes[c.Node.Kind], name: c.Name})
	}
	if e.number == rootInode && e.Child(lostFound) == nil {
		list = append(list, dirEntry{inode: firstInode, kind: fileTypes[fstree.Dir], name: lostFound})
	}
	blocks, indexed, err := w.dirBlocks(e.number, e.parent, list)
	if err != nil {
		return err
	}
	if indexed {
		n.flags |= flagIndexed
	}
	n.size = int64(len(blocks)) * blockSize
	var extents []extent
	for i := 0; i < len(blocks); {
		r, err := w.layout.allocate(int64(len(blocks) - i))
		if err != nil {
			return err
		}
		extents = addExtent(extents, extent{int64(i), r.at, r.n})
		if err := w.put("a directory", slices.Concat(blocks[i:i+int(r.n)]...), r.at*blockSize); err != nil {
			return err
		}
		i += int(r.n)
	}
	return w.setExtents(n, extents)
}

func (w *writer) symlink(n *inode, target string) error {
	if target == "" || len(target) > fstree.MaxTarget {
		return fmt.Errorf("a symbolic link with a target of %d bytes", len(target))
	}
	n.size = int64(len(target))
	if len(target) < len(n.block) {
		copy(n.block[:], target)
		return nil
	}
	r, err := w.layout.allocate(1)
	if err != nil {
		return err
	}
	b := make([]byte, blockSize)
	copy(b, target)
	if err := w.put("a symbolic link", b, r.at*blockSize); err != nil {
		return err
	}
	return w.setExtents(n, []extent{{0, r.at, 1}})
}

// file writes the content of a file. Blocks of zeros are holes.
func (w *writer) file(n *inode, e *entry) error {
	if e.Size < 0 || e.Size > (1<<32-1)*blockSize {
		return fmt.Errorf("a file of %d bytes is too large for ext4", e.Size)
	}
	r, err := e.OpenContent()
	if err != nil {
		return err
	}
	defer r.Close()
	var extents []extent
	for off := int64(0); off < e.Size; {
		start, _, err := fstree.DataAfter(r, off, e.Size)
		if err != nil {
			return err
		}
		if off = start &^ (blockSize - 1); start >= e.Size {
			break
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		b := w.buf[:min(int64(len(w.buf)), e.Size-off)]
		k, err := r.ReadAt(b, off)
		if k < len(b) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read at %d: %w", off, err)
		}
		if rest := len(b) % blockSize; rest > 0 {
			b = b[:len(b)+blockSize-rest]
			clear(b[k:])
		}
		if extents, err = w.pieces(extents, off/blockSize, b); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return w.setExtents(n, extents)
}

// pieces writes the blocks of b that are not zero, and adds them to a file from block
// logical on.
func (w *writer) pieces(list []extent, logical int64, b []byte) ([]extent, error) {
	for len(b) > 0 {
		n := 0
		for n < len(b) && !zero.IsZero(b[n:n+blockSize]) {
			n += blockSize
		}
		if n == 0 {
			b = b[blockSize:]
			logical++
			continue
		}
		r, err := w.layout.allocate(int64(n / blockSize))
		if err != nil {
			return nil, err
		}
		n = int(r.n) * blockSize
		if err := w.put("data", b[:n], r.at*blockSize); err != nil {
			return nil, err
		}
		list = addExtent(list, extent{logical, r.at, r.n})
		logical += r.n
		b = b[n:]
	}
	return list, nil
}

// writeJournal makes an empty journal: its superblock, and zeros.
func (w *writer) writeJournal() error {
	l := w.layout
	if l.journal == 0 {
		return nil
	}
	n := &inode{number: journalInode, mode: modes[fstree.File] | 0o600, links: 1, size: l.journal * blockSize, time: time.Unix(w.now, 0)}
	var extents []extent
	for left := l.journal; left > 0; {
		r, err := l.allocate(left)
		if err != nil {
			return err
		}
		extents = addExtent(extents, extent{l.journal - left, r.at, r.n})
		left -= r.n
	}
	if err := w.setExtents(n, extents); err != nil {
		return err
	}
	be := binary.BigEndian
	b := make([]byte, blockSize)
	be.PutUint32(b, 0xc03b3998)
	be.PutUint32(b[4:], 4) // a superblock, version 2
	be.PutUint32(b[12:], blockSize)
	be.PutUint32(b[16:], uint32(l.journal))
	be.PutUint32(b[20:], 1) // the first block of the log
	be.PutUint32(b[24:], 1) // the first transaction
	copy(b[48:], w.uuid[:])
	be.PutUint32(b[64:], 1) // one user
	w.journalBlock = n.block
	if err := w.put("the journal", b, extents[0].at*blockSize); err != nil {
		return err
	}
	return w.putInode(n)
}

// writeResize makes the inode that holds the blocks for further group descriptors: a
// double indirect block names those of the first group, and each of them its copies.
func (w *writer) writeResize() error {
	l := w.layout
	if l.reservedDesc == 0 {
		return nil
	}
	le := binary.LittleEndian
	r, err := l.allocate(1)
	if err != nil {
		return err
	}
	n := &inode{number: resizeInode, mode: modes[fstree.File] | 0o600, links: 1, blocks: 1, time: time.Unix(w.now, 0),
		size: (addrsPerBlock*addrsPerBlock + addrsPerBlock + 12) * blockSize}
	le.PutUint32(n.block[13*4:], uint32(r.at))
	indirect := make([]byte, blockSize)
	for i := range l.reservedDesc {
		at := 1 + l.descBlocks + i
		le.PutUint32(indirect[(l.descBlocks+i)%addrsPerBlock*4:], uint32(at))
		b := make([]byte, blockSize)
		k := 0
		for g := int64(1); g < l.groups; g++ {
			if l.backup(g) {
				le.PutUint32(b[4*k:], uint32(at+g*blocksPerGroup))
				k++
			}
		}
		n.blocks += int64(1 + k)
		if err := w.put("reserved group descriptors", b, at*blockSize); err != nil {
			return err
		}
	}
	if err := w.put("the table of reserved group descriptors", indirect, r.at*blockSize); err != nil {
		return err
	}
	return w.putInode(n)
}
