package fstree

import (
	"archive/tar"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
)

// FromTar reads a tar archive (ustar, pax or GNU, sparse files included), which may be
// compressed as Decompress knows. If it is not, and r can seek and read at an offset, as
// a file can, contents stay where they are, and r must live as long as the tree. Else they
// are copied to a temporary file.
//
// Entries may come in any order. A later entry replaces one of the same name.
// Directories that are missing are made with mode 0755 for root. Errors tell the entry.
func FromTar(r io.Reader, o Options) (*Tree, error) {
	b := &builder{tree: New(), use: NewMeter(o.Limits)}
	s := &tarSource{b: b, options: o}
	if err := s.read(r); err != nil {
		return nil, errors.Join(err, b.tree.Close())
	}
	if s.entries == 0 {
		return nil, errors.Join(errors.New("the archive has no entries"), b.tree.Close())
	}
	return b.tree.finish(o), nil
}

// tarSource reads archives into a tree.
type tarSource struct {
	b       *builder
	options Options
	spool   *spool // made when first needed
	layer   bool   // the archive is a layer: whiteouts count
	entries int
}

// seekable is a source whose contents can be read later.
type seekable interface {
	io.ReadSeeker
	io.ReaderAt
}

// read adds the entries of one archive, compressed or not.
func (s *tarSource) read(r io.Reader) error {
	if file, ok := r.(seekable); ok {
		if start, err := file.Seek(0, io.SeekCurrent); err == nil {
			var head [HeadSize]byte
			if n, err := file.ReadAt(head[:], start); err != nil && err != io.EOF {
				return err
			} else if !IsCompressed(head[:n]) {
				return s.entriesOf(tar.NewReader(struct{ io.ReadSeeker }{file}), file)
			}
		}
	}
	plain, _, err := Decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	if err := s.entriesOf(tar.NewReader(plain), nil); err != nil {
		return err
	}
	// to the end, so that checksums are verified; archives may be followed by padding
	rest := &io.LimitedReader{R: plain, N: 1 << 20}
	if _, err := io.Copy(io.Discard, rest); err != nil {
		return fmt.Errorf("after the last entry: %w", err)
	}
	if s.spool != nil {
		return s.spool.flush()
	}
	return nil
}

// entriesOf adds entries. file, where not nil, is what t reads from.
func (s *tarSource) entriesOf(t *tar.Reader, file seekable) error {
	for {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d entries: %w", s.entries, err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader || h.Typeflag == 'V' { // comments, a label
			continue
		}
		s.entries++
		if err := s.entry(t, h, file); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

// whiteout names (OCI image specification, "Representing Changes").
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

func (s *tarSource) entry(t *tar.Reader, h *tar.Header, file seekable) error {
	if s.layer {
		path := strings.TrimRight(h.Name, "/")
		dir, base := "", path
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			dir, base = path[:i+1], path[i+1:]
		}
		switch {
		case base == whiteoutOpaque:
			return s.b.whiteout(dir, true)
		case strings.HasPrefix(base, whiteoutMeta): // bookkeeping of aufs
			return nil
		case strings.HasPrefix(base, whiteoutPrefix):
			return s.b.whiteout(dir+base[len(whiteoutPrefix):], false)
		}
	}
	if h.Typeflag == tar.TypeLink {
		return s.b.link(h.Name, h.Linkname)
	}
	n, err := s.node(h)
	if err != nil {
		return err
	}
	if n.Kind == File {
		if err := s.content(n, t, h, file); err != nil {
			return err
		}
	}
	return s.b.add(h.Name, n)
}

// node makes a node of what the header says.
func (s *tarSource) node(h *tar.Header) (*Node, error) {
	n := &Node{Mode: uint16(h.Mode & 0o7777), ModTime: h.ModTime}
	var err error
	if n.UID, err = number("owner", int64(h.Uid)); err != nil {
		return nil, err
	}
	if n.GID, err = number("group", int64(h.Gid)); err != nil {
		return nil, err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, '\x00':
		n.Kind, n.Size = File, h.Size
	case tar.TypeDir, 'D':
		n.Kind = Dir
	case tar.TypeSymlink:
		n.Kind, n.Target = Symlink, h.Linkname
		if n.Target == "" || len(n.Target) > MaxTarget || strings.Contains(n.Target, "\x00") {
			return nil, fmt.Errorf("%w: a symbolic link with a target of %d bytes", ErrHostile, len(n.Target))
		}
	case tar.TypeChar, tar.TypeBlock:
		n.Kind = CharDevice
		if h.Typeflag == tar.TypeBlock {
			n.Kind = BlockDevice
		}
		if n.Major, err = number("major", h.Devmajor); err != nil {
			return nil, err
		}
		if n.Minor, err = number("minor", h.Devminor); err != nil {
			return nil, err
		}
	case tar.TypeFifo:
		n.Kind = FIFO
	default:
		return nil, fmt.Errorf("entries of type %q are not supported", h.Typeflag)
	}
	return n, s.xattrs(n, h)
}

func number(what string, v int64) (uint32, error) {
	if v < 0 || v > 1<<32-1 {
		return 0, fmt.Errorf("%w: the %s %d is out of range", ErrHostile, what, v)
	}
	return uint32(v), nil
}

// The pax records of extended attributes, by those who write them.
const (
	paxXattr        = "SCHILY.xattr."
	paxXattrArchive = "LIBARCHIVE.xattr."
	paxACL          = "SCHILY.acl."
)

// keyword undoes what GNU tar does to the names of attributes.
var keyword = strings.NewReplacer("%3D", "=", "%25", "%")

func (s *tarSource) xattrs(n *Node, h *tar.Header) error {
	var list []Xattr
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, paxXattr); ok {
			list = append(list, Xattr{keyword.Replace(name), []byte(value)})
		} else if name, ok := strings.CutPrefix(key, paxXattrArchive); ok {
			if _, twice := h.PAXRecords[paxXattr+name]; twice {
				continue
			}
			plain, err := url.PathUnescape(name)
			raw, err2 := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err := errors.Join(err, err2); err != nil {
				return fmt.Errorf("attribute %q: %w", name, err)
			}
			list = append(list, Xattr{plain, raw})
		} else if strings.HasPrefix(key, paxACL) && h.PAXRecords[paxXattr+"system.posix_acl_access"] == "" {
			s.b.tree.lose("access control lists in pax records (%s)", key)
		}
	}
	for _, x := range list {
		if x.Name == "" || len(x.Name) > MaxName || strings.Contains(x.Name, "\x00") {
			return fmt.Errorf("%w: an attribute with the name %.40q", ErrHostile, x.Name)
		}
	}
	n.SetXattrs(list)
	return nil
}

func (s *tarSource) content(n *Node, t *tar.Reader, h *tar.Header, file seekable) error {
	if err := s.b.use.File(n.Size); err != nil {
		return err
	}
	if n.Size == 0 {
		return nil
	}
	sparse := h.Typeflag == tar.TypeGNUSparse
	for key := range h.PAXRecords {
		sparse = sparse || strings.HasPrefix(key, "GNU.sparse.")
	}
	if file != nil && !sparse {
		at, err := file.Seek(0, io.SeekCurrent)
		n.Content = Section(file, at, n.Size)
		return err
	}
	if s.spool == nil {
		var err error
		if s.spool, err = newSpool(s.options.TempDir); err != nil {
			return err
		}
		s.b.tree.OnClose(s.spool)
	}
	var err error
	n.Content, err = s.spool.add(t, n.Size, sparse, s.b.use)
	if err == nil && file != nil {
		err = s.spool.flush()
	}
	return err
}

// OpenTar reads the archive in a file, which stays open until the tree is closed.
func OpenTar(path string, o Options) (*Tree, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	t, err := FromTar(f, o)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	t.OnClose(f)
	return t, nil
}
