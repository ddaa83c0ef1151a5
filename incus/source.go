package incus

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/squashfs"
)

// SourceOptions says how the source of a root file system is read.
type SourceOptions struct {
	// Tree has the owner, the limits and the folder for temporary files.
	Tree fstree.Options
	// Ownership is the name of a file of owners and devices, as fstree.Tree.ApplyPseudo
	// reads it, "" for none.
	Ownership string
	// Platform picks one of several images of a container archive.
	Platform fstree.Platform
}

// OpenSource reads a root file system: a folder, a tar archive of any usual compression, a
// squashfs, an OCI layout or a "docker save" archive, which is found out by looking.
func OpenSource(path string, o SourceOptions) (*fstree.Tree, error) {
	t, err := openSource(path, o)
	if err != nil || o.Ownership == "" {
		return t, err
	}
	f, err := os.Open(o.Ownership)
	if err == nil {
		err = t.ApplyPseudo(f)
		if err != nil {
			err = fmt.Errorf("%s: %w", o.Ownership, err)
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func openSource(path string, o SourceOptions) (*fstree.Tree, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		if _, err := os.Stat(filepath.Join(path, "oci-layout")); err == nil {
			return fstree.FromOCI(path, o.Platform, o.Tree)
		}
		return fstree.FromDir(path, o.Tree)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is neither a folder nor a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var head [4]byte
	_, err = io.ReadFull(f, head[:])
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("%s: too short for a root file system: %w", path, err)
	}
	if string(head[:]) == "hsqs" {
		return squashfs.OpenTree(path, o.Tree)
	}
	t, err := fstree.OpenTar(path, fstree.Options{Limits: o.Tree.Limits, TempDir: o.Tree.TempDir})
	if err != nil {
		return nil, err
	}
	has := func(name string) bool { n := t.Root.Child(name); return n != nil && n.Kind == fstree.File }
	if has("oci-layout") && has("index.json") || has("manifest.json") && t.Root.Child("etc") == nil {
		if err := t.Close(); err != nil {
			return nil, err
		}
		return fstree.FromOCI(path, o.Platform, o.Tree)
	}
	if o.Tree.Owner != nil {
		t.SetOwner(*o.Tree.Owner)
	}
	return t, nil
}
