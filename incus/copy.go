package incus

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus/definition"
)

// copyFiles copies files and folders of this machine into the tree. The last name of the
// source may be a pattern. Owners, modes and attributes are not kept: files belong to root
// and have mode 0644, or what the definition says.
func (i *Image) copyFiles(f definition.File) error {
	if f.Source == "" {
		return fmt.Errorf("failed to copy file(s): generator copy has no source")
	}
	dest := f.Path
	if dest == "" {
		dest = filepath.ToSlash(f.Source)
	}
	matches, err := matching(f.Source)
	if err != nil {
		return fmt.Errorf("failed to copy file(s): %w", err)
	}
	into := strings.HasSuffix(f.Path, "/") || len(matches) > 1
	for _, m := range matches {
		info, err := os.Stat(m)
		switch {
		case err != nil:
		case info.IsDir():
			err = i.copyFolder(m, dest, f)
		case info.Mode().IsRegular():
			to := dest
			if into {
				to = path.Join(dest, filepath.Base(m))
			}
			err = i.copyFile(m, to, f)
		default:
			err = fmt.Errorf("file type of %q not supported", m)
		}
		if err != nil {
			return fmt.Errorf("failed to copy file(s): failed to copy file %q to %q: %w", m, dest, err)
		}
	}
	return nil
}

// matching lists the files that a source with a pattern as its last name means. A name
// that is there but is no pattern for itself ("[a]") counts, too.
func matching(source string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(source))
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		ok, err := filepath.Match(filepath.Base(source), e.Name())
		if err != nil {
			return nil, fmt.Errorf("failed to match pattern: %w", err)
		}
		if ok {
			list = append(list, filepath.Join(filepath.Dir(source), e.Name()))
		}
	}
	if len(list) == 0 {
		_, err = os.Stat(source)
		list = append(list, source)
	}
	return list, err
}

// copyFile copies one file of the machine.
func (i *Image) copyFile(from, to string, f definition.File) error {
	host, err := fstree.FromFile(from)
	if err != nil {
		return err
	}
	return i.put(host, to, f)
}

// put gives the file at a path of the tree the content of another.
func (i *Image) put(host *fstree.Node, to string, f definition.File) error {
	n, err := i.Tree.PutFile(to, nil, i.Time)
	if err != nil {
		return err
	}
	n.Size, n.Content = host.Size, host.Content
	return i.access(n, f)
}

// copyFolder copies what is below a folder of the machine to a directory of the tree.
func (i *Image) copyFolder(from, to string, f definition.File) error {
	host, err := fstree.FromDir(from, fstree.Options{})
	if err != nil {
		return err
	}
	i.Tree.OnClose(host)
	for name, n := range host.Root.Walk() {
		at := path.Join(to, name)
		switch n.Kind {
		case fstree.Dir:
			_, err = i.Tree.MakeDirs(at, 0o755, i.Time)
		case fstree.File:
			err = i.put(n, at, f)
		case fstree.Symlink:
			err = i.symlink(n.Target, at)
		default:
			i.warn("generator copy: %q is a %s, which is left out", filepath.Join(from, name), n.Kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// symlink puts a symbolic link in place of what is at a path.
func (i *Image) symlink(target, at string) error {
	dir, err := i.Tree.MakeDirs(path.Dir(at), 0o755, i.Time)
	if err != nil {
		return err
	}
	if old := dir.Child(path.Base(at)); old != nil && old.Kind == fstree.Dir {
		return fmt.Errorf("%q: %w", at, fs.ErrExist)
	}
	dir.ModTime = i.Time
	return dir.Set(path.Base(at), &fstree.Node{Kind: fstree.Symlink, Mode: 0o777, Target: target, ModTime: i.Time})
}
