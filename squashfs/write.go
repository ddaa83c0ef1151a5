package squashfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"runtime"
	"slices"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/internal/tmpfile"
)

// Options says how an image is written. The zero value is what mksquashfs does without
// options, but for the export table, which few need.
type Options struct {
	// Compression is Gzip where it is 0.
	Compression Compression
	// Level of the compression, 0 for the default: 1 to 9 (9) for Gzip, 1 to 22 (15) for
	// Zstd, 1 for the slow mode of LZ4. XZ and LZMA take none.
	Level int
	// BlockSize is a power of two from 4096 to 1 MiB, 128 KiB where it is 0.
	BlockSize int
	// Time is when the image was made, as it is written there. Where it is zero it is the
	// latest time of a file, so that the image depends on the tree only.
	Time time.Time
	// Exports adds the table that the NFS server of the kernel needs.
	Exports bool
	// NoFragments gives each small file a block of its own. TailEnds puts the ends of large
	// files into fragments, too.
	NoFragments, TailEnds bool
	// Pad is the unit that the size of the image is made a multiple of: 4096 where it is 0,
	// none where it is negative.
	Pad int64
	// Workers is how many goroutines compress, runtime.GOMAXPROCS(0) where it is 0. It
	// does not change the image. Each takes some five blocks of memory.
	Workers int
	// Progress, where not nil, is called now and then by the goroutine that called Write,
	// with the bytes of files that have been written and those of all files.
	Progress func(done, total int64)
}

// Report tells what was written.
type Report struct {
	// Size of the image in bytes, padding included.
	Size int64
	// Inodes and Duplicates are numbers of files; duplicates share what others hold.
	Inodes, Duplicates int
	// Lost tells in plain words what of the tree the image does not hold, once each.
	Lost []string
}

// Write writes an image of a tree from offset 0 of w on, in ascending pieces, and then
// its first bytes. The image is whole only when it has returned without an error.
//
// The tree must not be changed meanwhile. It fails with the path of the file where
// something cannot be read or does not fit in the format.
func Write(ctx context.Context, w io.WriterAt, root *fstree.Node, o Options) (*Report, error) {
	if root.Kind != fstree.Dir {
		return nil, fmt.Errorf("the root of the tree is a %s", root.Kind)
	}
	if o.Compression == 0 {
		o.Compression = Gzip
	}
	if o.BlockSize == 0 {
		o.BlockSize = 128 << 10
	}
	if o.BlockSize < minBlock || o.BlockSize > maxBlock || bits.OnesCount(uint(o.BlockSize)) != 1 {
		return nil, fmt.Errorf("block size %d is not a power of two from %d to %d", o.BlockSize, minBlock, maxBlock)
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	var err error
	if o.Level, err = level(o.Compression, o.Level); err != nil {
		return nil, err
	}
	e := &writer{options: o, out: &output{w: w, at: superblockSize}, report: &Report{}, bs: int64(o.BlockSize)}
	if err := e.write(ctx, root); err != nil {
		return nil, err
	}
	return e.report, nil
}

// Stream writes an image of a tree to a stream. It makes it in a temporary file in dir,
// "" for the system's directory.
func Stream(ctx context.Context, w io.Writer, root *fstree.Node, o Options, dir string) (r *Report, err error) {
	f, err := tmpfile.Anonymous(dir, "cowl-squashfs-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Discard()) }()
	if r, err = Write(ctx, f, root, o); err != nil {
		return nil, err
	}
	if _, err := io.Copy(w, io.NewSectionReader(f, 0, r.Size)); err != nil {
		return nil, err
	}
	return r, nil
}

// writer is one run of Write.
type writer struct {
	options Options
	bs      int64
	out     *output
	report  *Report
	packer  packer // for metadata

	nodes     []*inode // by number, from 1
	byNode    map[*fstree.Node]*inode
	files     []*inode // regular files with content, in the order of their names
	total     int64    // bytes in them
	fragments []byte   // the table

	inodes, dirs metaWriter
	ids          map[uint32]uint16
	idTable      []byte
	xattrs       xattrTable
	latest       uint32
}

// inode is a node with its place in the image.
type inode struct {
	*fstree.Node
	path   string // its first
	number uint32
	parent uint32 // of a directory
	links  uint32 // names
	ref    uint64 // in the inode table, once it is written
	put    bool   // it is written

	data *fileData
}

// fileData is where the content of a file is.
type fileData struct {
	start      uint64
	blocks     []uint32 // sizes as the format has them
	fragment   uint32   // or none32
	fragOffset uint32
	sparse     int64 // bytes in blocks that are left out
}

func (w *writer) write(ctx context.Context, root *fstree.Node) error {
	var err error
	if w.packer, err = newPacker(w.options.Compression, w.options.Level, max(metaSize, minBlock)); err != nil {
		return err
	}
	if err := w.number(root); err != nil {
		return err
	}
	sb := superblock{inodes: uint32(len(w.nodes)), blockSize: uint32(w.options.BlockSize), compression: w.options.Compression, flags: flagDuplicates, exportTable: none64}
	if o := options(w.options.Compression, w.options.Level); o != nil {
		sb.flags |= flagOptions
		w.out.add([]byte{byte(len(o)), metaRaw >> 8})
		w.out.add(o)
	}
	if err := w.data(ctx); err != nil {
		return err
	}
	if err := w.tree(root); err != nil {
		return err
	}
	if err := w.tables(&sb, root); err != nil {
		return err
	}
	sb.used = w.out.at
	if w.report.Size = int64(sb.used); w.options.Pad >= 0 {
		pad := max(w.options.Pad, 0)
		if pad == 0 {
			pad = 4096
		}
		w.out.add(make([]byte, (pad-w.report.Size%pad)%pad))
		w.report.Size = int64(w.out.at)
	}
	if err := w.out.flush(); err != nil {
		return err
	}
	if _, err := w.out.w.WriteAt(sb.encode(), 0); err != nil {
		return fmt.Errorf("write the superblock: %w", err)
	}
	w.report.Inodes = len(w.nodes)
	return nil
}

// number gives inodes their numbers: the entries of a directory one after the other, so
// that one header of a listing serves many.
func (w *writer) number(root *fstree.Node) error {
	w.byNode = map[*fstree.Node]*inode{}
	top := w.add(root, "")
	queue := []*inode{top}
	for len(queue) > 0 {
		dir := queue[0]
		queue = queue[1:]
		dir.links = 2
		for _, c := range dir.Children() {
			if known := w.byNode[c.Node]; known != nil {
				if known.Kind == fstree.Dir {
					return fmt.Errorf("%q: the directory is in the tree twice", dir.path+"/"+c.Name)
				}
				known.links++
				continue
			}
			if len(w.nodes) == math.MaxUint32-2 {
				return errors.New("there are too many files for squashfs")
			}
			n := w.add(c.Node, dir.path+"/"+c.Name)
			n.links = 1
			if n.Kind == fstree.Dir {
				n.parent = dir.number
				dir.links++
				queue = append(queue, n)
			}
		}
	}
	top.parent = uint32(len(w.nodes)) + 1
	// contents in the order of paths: what lies together is read together
	seen := make([]bool, len(w.nodes)+1)
	for _, node := range root.Walk() {
		n := w.byNode[node]
		if n.Kind != fstree.File || seen[n.number] {
			continue
		}
		seen[n.number] = true
		if n.Size < 0 {
			return fmt.Errorf("%q: a size of %d bytes", n.path, n.Size)
		}
		n.data = &fileData{fragment: none32}
		if n.Size > 0 {
			w.files = append(w.files, n)
			w.total += n.Size
		}
	}
	return nil
}

func (w *writer) add(node *fstree.Node, path string) *inode {
	n := &inode{Node: node, path: path, number: uint32(len(w.nodes) + 1)}
	w.nodes = append(w.nodes, n)
	w.byNode[node] = n
	return n
}

// lose notes what the image does not hold.
func (w *writer) lose(text string) {
	if !slices.Contains(w.report.Lost, text) && len(w.report.Lost) < 100 {
		w.report.Lost = append(w.report.Lost, text)
	}
}

// seconds is a time as the format has it.
func (w *writer) seconds(t time.Time) uint32 {
	s := t.Unix()
	if s < 0 || s > math.MaxUint32 {
		w.lose("times before 1970 and after 2106, which are moved there")
	}
	return uint32(min(max(s, 0), math.MaxUint32))
}

// output writes one piece after the other. The first error stays.
type output struct {
	w   io.WriterAt
	buf []byte
	at  uint64 // where buf ends
	err error
}

const (
	outputBuffer = 1 << 20
	outputDirect = 64 << 10 // longer pieces are not copied
)

func (o *output) add(p []byte) {
	if len(o.buf)+len(p) > outputBuffer || len(p) > outputDirect {
		o.flush()
	}
	if o.buf == nil {
		o.buf = make([]byte, 0, outputBuffer)
	}
	if len(p) > outputDirect {
		o.at += uint64(len(p))
		o.writeAt(p)
		return
	}
	o.buf = append(o.buf, p...)
	o.at += uint64(len(p))
}

// writeAt writes p, which ends at o.at.
func (o *output) writeAt(p []byte) {
	if o.err != nil || len(p) == 0 {
		return
	}
	if _, err := o.w.WriteAt(p, int64(o.at)-int64(len(p))); err != nil {
		o.err = fmt.Errorf("write %d bytes of the image at %d: %w", len(p), int64(o.at)-int64(len(p)), err)
	}
}

func (o *output) flush() error {
	o.writeAt(o.buf)
	o.buf = o.buf[:0]
	return o.err
}
