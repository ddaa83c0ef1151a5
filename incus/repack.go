package incus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/squashfs"
)

// Opened is an image that was made before.
type Opened struct {
	Metadata Metadata
	// VM says that it is one of a virtual machine.
	VM bool

	meta *fstree.Tree
	root *fstree.Node // of a container
	disk *fstree.Node // of a virtual machine
	// trees are closed by Close.
	trees []*fstree.Tree
	file  *os.File
}

// Close releases the files.
func (o *Opened) Close() error {
	var errs []error
	for _, t := range o.trees {
		errs = append(errs, t.Close())
	}
	if o.file != nil {
		errs = append(errs, o.file.Close())
	}
	return errors.Join(errs...)
}

// OpenImage opens an image: the file of a unified one, or the archive with the metadata and
// the squashfs or qcow2 of a split one.
func OpenImage(files []string, options fstree.Options) (*Opened, error) {
	o := &Opened{}
	if err := o.open(files, options); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

func (o *Opened) open(files []string, options fstree.Options) error {
	if len(files) != 1 && len(files) != 2 {
		return fmt.Errorf("an image has one or two files, not %d", len(files))
	}
	archive, err := fstree.OpenTar(files[0], options)
	if err != nil {
		return err
	}
	o.trees = append(o.trees, archive)
	text, err := archive.ReadFile("metadata.yaml", maxMetadata)
	if err != nil {
		return fmt.Errorf("%s is no image of Incus: %w", files[0], err)
	}
	if err := yaml.Unmarshal(text, &o.Metadata); err != nil {
		return fmt.Errorf("%s: metadata.yaml: %w", files[0], err)
	}
	o.meta = fstree.New()
	for _, name := range []string{"metadata.yaml", "templates"} {
		if n := archive.Root.Child(name); n != nil {
			if err := o.meta.Root.Set(name, n); err != nil {
				return err
			}
		}
	}
	if len(files) == 1 {
		root, disk := archive.Root.Child("rootfs"), archive.Root.Child("rootfs.img")
		switch {
		case root != nil && root.Kind == fstree.Dir:
			o.root = root
		case disk != nil && disk.Kind == fstree.File:
			o.disk, o.VM = disk, true
		default:
			return fmt.Errorf("%s has neither rootfs nor rootfs.img: name the file with the root file system, too", files[0])
		}
		return nil
	}
	return o.openSecond(files[1], options)
}

// openSecond opens the root file system of a split image.
func (o *Opened) openSecond(path string, options fstree.Options) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	o.file = f
	var head [4]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	switch string(head[:]) {
	case "hsqs":
		t, err := squashfs.OpenTree(path, options)
		if err != nil {
			return err
		}
		o.trees = append(o.trees, t)
		o.root = t.Root
	case "QFI\xfb":
		info, err := f.Stat()
		if err != nil {
			return err
		}
		o.VM = true
		o.disk = &fstree.Node{Kind: fstree.File, Mode: 0o644, ModTime: time.Unix(o.Metadata.CreationDate, 0), Size: info.Size(), Content: fstree.Section(f, 0, info.Size())}
	default:
		return fmt.Errorf("%s is neither a squashfs nor a qcow2 image", path)
	}
	return nil
}

// Repack writes the image again, in the form and with the compression of the options; VM
// and Registry are not used. What the image holds stays as it is; a disk is not compressed
// again.
func (o *Opened) Repack(ctx context.Context, options PackOptions) (*Result, error) {
	p := newPacking(options, o.VM)
	p.meta, p.root, p.disk, p.when = o.meta, o.root, o.disk, time.Unix(o.Metadata.CreationDate, 0)
	p.result.Name = o.Metadata.Properties["name"]
	for _, t := range o.trees {
		p.lose(t.Lost...)
	}
	defer p.out.discard()
	return p.run(ctx)
}

// copyContent copies the content of a file.
func copyContent(ctx context.Context, w io.Writer, n *fstree.Node, progress func(done int64)) error {
	r, err := n.OpenContent()
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < n.Size; {
		p := buf[:min(int64(len(buf)), n.Size-off)]
		k, err := r.ReadAt(p, off)
		if k < len(p) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read at %d: %w", off, err)
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		off += int64(k)
		progress(off)
	}
	return nil
}
