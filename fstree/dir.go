package fstree

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// FromDir reads a folder of the machine. Nothing in it may change while the tree is used:
// a file that is no longer the same fails when it is opened. Symbolic links are not
// followed. Where the system has no owners, root owns everything.
//
// Extended attributes that cannot be read are missing in the tree, and Lost tells so;
// "trusted." ones need privileges.
func FromDir(path string, o Options) (*Tree, error) {
	info, err := os.Stat(path) // path itself may be a link
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", path)
	}
	t := New()
	d := dirSource{tree: t, use: NewMeter(o.Limits), links: map[fileID]*Node{}}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	t.Root, err = d.read(path, "", 0)
	if err != nil {
		return nil, err
	}
	return t.finish(o), nil
}

// fileID identifies a file of the machine.
type fileID struct{ dev, ino uint64 }

type dirSource struct {
	tree  *Tree
	use   *Meter
	links map[fileID]*Node // files with several names
}

// read makes a node of the file at path.
func (d *dirSource) read(path, name string, depth int) (*Node, error) {
	if err := d.use.Depth(depth); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	n := &Node{Mode: uint16(info.Mode().Perm()), ModTime: info.ModTime()}
	for bit, mode := range map[fs.FileMode]uint16{fs.ModeSetuid: SetUID, fs.ModeSetgid: SetGID, fs.ModeSticky: Sticky} {
		if info.Mode()&bit != 0 {
			n.Mode |= mode
		}
	}
	id, shared := d.stat(n, info)
	if shared && !info.IsDir() {
		if known := d.links[id]; known != nil {
			return known, d.use.more(nodeCost)
		}
		d.links[id] = n
	}
	switch info.Mode().Type() {
	case 0:
		n.Kind, n.Size = File, info.Size()
		n.Content = &hostFile{path, n.Size, info}
		if err := d.use.File(n.Size); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	case fs.ModeDir:
		n.Kind = Dir
	case fs.ModeSymlink:
		n.Kind = Symlink
		if n.Target, err = os.Readlink(path); err != nil {
			return nil, err
		}
	case fs.ModeNamedPipe:
		n.Kind = FIFO
	case fs.ModeSocket:
		n.Kind = Socket
	case fs.ModeDevice:
		n.Kind = BlockDevice
	case fs.ModeDevice | fs.ModeCharDevice:
		n.Kind = CharDevice
	default:
		return nil, fmt.Errorf("%s: files of the kind %s are not supported", path, info.Mode().Type())
	}
	if err := d.xattrs(n, path); err != nil {
		return nil, err
	}
	if err := d.use.Node(len(path), n); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if n.Kind != Dir {
		return n, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		child, err := d.read(filepath.Join(path, e.Name()), e.Name(), depth+1)
		if err != nil {
			return nil, err
		}
		if err := n.Set(e.Name(), child); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return n, nil
}

// hostFile is a file of the machine.
type hostFile struct {
	path string
	size int64
	info fs.FileInfo
}

func (h *hostFile) Open() (Reader, error) {
	f, err := openNoFollow(h.path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (!os.SameFile(info, h.info) || info.Size() != h.size || !info.ModTime().Equal(h.info.ModTime())) {
		err = fmt.Errorf("%s has changed since its folder was read", h.path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &openHostFile{f, h.size}, nil
}

type openHostFile struct {
	*os.File
	size int64
}

func (f *openHostFile) NextData(off int64) (start, end int64, err error) {
	return nextData(f.File, off, f.size)
}
