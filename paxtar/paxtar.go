// Package paxtar writes tar archives in the pax format (IEEE Std 1003.1, pax, "pax
// Interchange Format") from trees of package fstree.
//
// The archive depends on nothing but the tree and the options: entries come in the order of
// their names, owners are numbers, there are no times of access and change, and records
// only for what does not fit in the header of an entry. Extended attributes are records
// SCHILY.xattr.NAME as GNU tar, bsdtar and Docker have them; holes are kept in the form
// that GNU tar calls sparse format 1.0, where asked for.
package paxtar

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/fstree"
)

// Options says how an archive is written.
type Options struct {
	// Seconds cuts times to whole seconds.
	Seconds bool
	// Sparse leaves holes out.
	Sparse bool
}

const (
	blockSize  = 512
	recordSize = 10240 // what the archive is padded to

	nameField = 100 // bytes of a name or a link's target in the header
	maxID     = 1<<21 - 1
	maxField  = 1<<33 - 1 // size and time
)

// Writer writes an archive. The first error stays.
type Writer struct {
	w       io.Writer
	options Options
	written int64
	err     error
	names   map[*fstree.Node]string // where each file is, for hard links
	lost    []string
	buf     []byte
}

// NewWriter returns a writer of an archive to w.
func NewWriter(w io.Writer, o Options) *Writer {
	return &Writer{w: w, options: o, names: map[*fstree.Node]string{}, buf: make([]byte, 256<<10)}
}

// Lost tells in plain words what of the trees the archive does not hold.
func (w *Writer) Lost() []string { return w.lost }

// AddTree adds a directory as prefix, which ends with a slash or is "", and all below it.
// A prefix of "" has no entry of its own.
func (w *Writer) AddTree(prefix string, root *fstree.Node) error {
	for path, n := range root.Walk() {
		if path = prefix + path; path == "" {
			continue
		}
		if err := w.Add(path, n); err != nil {
			return err
		}
	}
	return nil
}

// Add adds one node, without what is below it, under a path. A node that has been added
// before becomes a hard link.
func (w *Writer) Add(path string, n *fstree.Node) error {
	if w.err == nil {
		if err := w.add(path, n); err != nil {
			w.err = fmt.Errorf("%q: %w", path, err)
		}
	}
	return w.err
}

// Close ends the archive. It does not close what NewWriter was given.
func (w *Writer) Close() error {
	end := int64(2 * blockSize)
	end += (recordSize - (w.written+end)%recordSize) % recordSize
	w.write(make([]byte, end))
	if w.err != nil {
		return w.err
	}
	w.err = errors.New("the archive is closed")
	return nil
}

var types = map[fstree.Kind]byte{fstree.File: '0', fstree.Symlink: '2', fstree.CharDevice: '3', fstree.BlockDevice: '4', fstree.Dir: '5', fstree.FIFO: '6'}

func (w *Writer) add(path string, n *fstree.Node) error {
	if n.Kind == fstree.Socket {
		w.lose("sockets, which archives do not hold")
		return nil
	}
	h := header{kind: types[n.Kind], name: path, mode: n.Mode, target: n.Target, major: n.Major, minor: n.Minor}
	if h.kind == 0 || path == "" || strings.Contains(path+n.Target, "\x00") {
		return fmt.Errorf("a %s cannot be in an archive under this name", n.Kind)
	}
	if h.major > maxID || h.minor > maxID {
		return fmt.Errorf("the device numbers %d:%d do not fit", n.Major, n.Minor)
	}
	if n.Kind == fstree.Dir && !strings.HasSuffix(path, "/") {
		h.name += "/"
	}
	first, linked := w.names[n]
	if n.Kind != fstree.Dir {
		if !linked {
			w.names[n] = path
		} else {
			h.kind, h.target, h.major, h.minor = '1', first, 0, 0
		}
	}
	var holes []fstree.Extent
	var content fstree.Reader
	if n.Kind == fstree.File && !linked {
		var err error
		if content, err = n.OpenContent(); err != nil {
			return err
		}
		defer content.Close()
		if h.size = n.Size; w.options.Sparse {
			if holes, err = extents(content, n.Size); err != nil {
				return err
			}
		}
	}
	h.ids(n.UID, n.GID)
	h.time(n.ModTime, w.options.Seconds)
	if !linked {
		for _, x := range n.Xattrs {
			h.record("SCHILY.xattr."+keyword.Replace(x.Name), string(x.Value))
		}
	}
	var sparse []byte
	if holes != nil {
		sparse = h.sparse(n.Size, holes)
	} else {
		holes = []fstree.Extent{{Start: 0, Length: n.Size}}
	}
	w.write(h.encode())
	w.write(sparse)
	if content == nil {
		return w.err
	}
	return w.content(content, holes)
}

// keyword escapes what GNU tar escapes in the names of attributes.
var keyword = strings.NewReplacer("%", "%25", "=", "%3D")

// content writes the ranges of a file, and pads.
func (w *Writer) content(r fstree.Reader, ranges []fstree.Extent) error {
	total := int64(0)
	for _, e := range ranges {
		for off := e.Start; off < e.Start+e.Length && w.err == nil; {
			p := w.buf[:min(int64(len(w.buf)), e.Start+e.Length-off)]
			n, err := r.ReadAt(p, off)
			if n < len(p) {
				if err == nil || err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return fmt.Errorf("read at %d: %w", off, err)
			}
			w.write(p)
			off += int64(n)
		}
		total += e.Length
	}
	w.write(make([]byte, -total&(blockSize-1)))
	return w.err
}

func (w *Writer) write(p []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(p)
		w.written += int64(len(p))
	}
}

func (w *Writer) lose(text string) {
	if !slices.Contains(w.lost, text) {
		w.lost = append(w.lost, text)
	}
}

// extents returns the ranges of data of a file that has holes, nil for one without. They
// are of whole blocks, as GNU tar takes them.
func extents(r fstree.Reader, size int64) (list []fstree.Extent, err error) {
	for off := int64(0); off < size; {
		start, end, err := fstree.DataAfter(r, off, size)
		if err != nil {
			return nil, err
		}
		off = end
		if start >= size {
			continue
		}
		start &^= blockSize - 1
		end = min((end+blockSize-1)&^(blockSize-1), size)
		if last := len(list) - 1; last >= 0 && list[last].Start+list[last].Length >= start {
			list[last].Length = end - list[last].Start
		} else {
			list = append(list, fstree.Extent{Start: start, Length: end - start})
		}
	}
	if len(list) == 1 && list[0] == (fstree.Extent{Length: size}) {
		return nil, nil
	}
	if size > 0 && (len(list) == 0 || list[len(list)-1].Start+list[len(list)-1].Length < size) {
		list = append(list, fstree.Extent{Start: size}) // as GNU tar ends a map that ends with a hole
	}
	return list, nil
}

// header is an entry's header and its pax records.
type header struct {
	kind         byte
	name, target string
	mode         uint16
	uid, gid     uint32
	size, mtime  int64
	major, minor uint32
	records      []string // KEY=VALUE
	named        bool     // a record has the name
}

func (h *header) record(key, value string) {
	h.records = append(h.records, key+"="+value)
}

func (h *header) ids(uid, gid uint32) {
	if h.uid = uid; uid > maxID {
		h.uid = 0
		h.record("uid", strconv.FormatUint(uint64(uid), 10))
	}
	if h.gid = gid; gid > maxID {
		h.gid = 0
		h.record("gid", strconv.FormatUint(uint64(gid), 10))
	}
}

// time takes the time into the header where it fits there.
func (h *header) time(t time.Time, seconds bool) {
	sec, ns := t.Unix(), int64(t.Nanosecond())
	if seconds {
		ns = 0
	}
	if h.mtime = min(max(sec, 0), maxField); h.mtime == sec && ns == 0 {
		return
	}
	sign := ""
	if sec < 0 && ns > 0 { // counted from the second after it
		sec, ns = sec+1, 1e9-ns
	}
	if sec < 0 || t.Unix() < 0 {
		sign, sec = "-", -sec
	}
	text := sign + strconv.FormatInt(sec, 10)
	if ns > 0 {
		text += "." + strings.TrimRight(fmt.Sprintf("%09d", ns), "0")
	}
	h.record("mtime", text)
}

// sparse makes the entry one of a sparse file and returns the map before its data.
func (h *header) sparse(size int64, ranges []fstree.Extent) []byte {
	h.record("GNU.sparse.major", "1")
	h.record("GNU.sparse.minor", "0")
	h.record("GNU.sparse.name", h.name)
	h.record("GNU.sparse.realsize", strconv.FormatInt(size, 10))
	dir, base := "", h.name
	if i := strings.LastIndexByte(base, '/'); i >= 0 {
		dir, base = base[:i+1], base[i+1:]
	}
	h.name, h.named = dir+"GNUSparseFile.0/"+base, true
	text := strconv.AppendInt(nil, int64(len(ranges)), 10)
	data := int64(0)
	for _, e := range ranges {
		text = strconv.AppendInt(append(text, '\n'), e.Start, 10)
		text = strconv.AppendInt(append(text, '\n'), e.Length, 10)
		data += e.Length
	}
	text = append(text, '\n')
	text = append(text, make([]byte, -len(text)&(blockSize-1))...)
	h.size = int64(len(text)) + data
	return text
}

// encode returns the header, with a header of records before it where there are some.
func (h *header) encode() []byte {
	if len(h.name) > nameField && !h.named {
		h.record("path", h.name)
	}
	if len(h.target) > nameField {
		h.record("linkpath", h.target)
	}
	if h.size > maxField {
		h.record("size", strconv.FormatInt(h.size, 10))
	}
	var out []byte
	if len(h.records) > 0 {
		slices.Sort(h.records)
		var text []byte
		for _, r := range h.records {
			text = append(text, paxRecord(r)...)
		}
		base := strings.TrimSuffix(h.name, "/")
		base = base[strings.LastIndexByte(base, '/')+1:]
		x := header{kind: 'x', name: "PaxHeaders/" + base, mode: 0o644, size: int64(len(text))}
		out = append(x.block(), text...)
		out = append(out, make([]byte, -len(text)&(blockSize-1))...)
	}
	return append(out, h.block()...)
}

// paxRecord puts the length, its own digits included, before a record.
func paxRecord(r string) string {
	n := len(r) + 3
	for {
		text := strconv.Itoa(n) + " " + r + "\n"
		if len(text) == n {
			return text
		}
		n = len(text)
	}
}

// block is the header in the ustar format. What is too long is cut: a record has it.
func (h *header) block() []byte {
	b := make([]byte, blockSize)
	octal := func(at, n int, v int64) { copy(b[at:], fmt.Sprintf("%0*o\x00", n-1, v)) }
	copy(b[:nameField], h.name)
	octal(100, 8, int64(h.mode))
	octal(108, 8, int64(h.uid))
	octal(116, 8, int64(h.gid))
	octal(124, 12, min(h.size, maxField))
	octal(136, 12, h.mtime)
	b[156] = h.kind
	copy(b[157:257], h.target)
	copy(b[257:], "ustar\x0000")
	octal(329, 8, int64(h.major))
	octal(337, 8, int64(h.minor))
	sum := int64(8 * ' ')
	for _, c := range b {
		sum += int64(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}
