package treetest

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/fstree"
)

// Unpack puts a tree into a folder that is not there yet. It needs root.
func Unpack(t testing.TB, root *fstree.Node, dir string) {
	t.Helper()
	seen := map[*fstree.Node]string{}
	var dirs []string
	nodes := map[string]*fstree.Node{}
	for path, n := range root.Walk() {
		full := filepath.Join(dir, path)
		if n.Kind == fstree.Dir {
			check(t, os.Mkdir(full, 0o700))
			dirs, nodes[full] = append(dirs, full), n
			continue
		}
		if first := seen[n]; first != "" {
			check(t, os.Link(first, full))
			continue
		}
		seen[n] = full
		switch n.Kind {
		case fstree.File:
			unpackFile(t, n, full)
		case fstree.Symlink:
			check(t, os.Symlink(n.Target, full))
		default:
			mode := map[fstree.Kind]uint32{fstree.CharDevice: unix.S_IFCHR, fstree.BlockDevice: unix.S_IFBLK, fstree.FIFO: unix.S_IFIFO, fstree.Socket: unix.S_IFSOCK}[n.Kind]
			check(t, unix.Mknod(full, mode, int(unix.Mkdev(n.Major, n.Minor))))
		}
		setMeta(t, n, full)
	}
	for i := len(dirs) - 1; i >= 0; i-- { // their times last
		setMeta(t, nodes[dirs[i]], dirs[i])
	}
}

func unpackFile(t testing.TB, n *fstree.Node, path string) {
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(n.Size))
	r, err := n.OpenContent()
	check(t, err)
	defer r.Close()
	for off := int64(0); off < n.Size; {
		start, end, err := fstree.DataAfter(r, off, n.Size)
		check(t, err)
		if start < n.Size {
			_, err = io.Copy(io.NewOffsetWriter(f, start), io.NewSectionReader(r, start, end-start))
			check(t, err)
		}
		off = end
	}
}

func setMeta(t testing.TB, n *fstree.Node, path string) {
	check(t, os.Lchown(path, int(n.UID), int(n.GID)))
	if n.Kind != fstree.Symlink {
		check(t, unix.Chmod(path, uint32(n.Mode)))
	}
	for _, x := range n.Xattrs {
		check(t, unix.Lsetxattr(path, x.Name, x.Value, 0))
	}
	ts := unix.NsecToTimespec(n.ModTime.UnixNano())
	check(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
