package incus

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/paxtar"
	"github.com/cowl-disk/cowl/squashfs"
)

// PackOptions says what Pack writes.
type PackOptions struct {
	// Dir is where the files come, "" for the working directory. It is made.
	Dir string
	// Unified puts everything into one archive.
	Unified     bool
	Compression Compression
	// VM makes the disk of a virtual machine. Registry opens its format, qcow2.
	VM       *VMOptions
	Registry *block.Registry
	// NoVerify leaves out reading back and comparing what was written. The digests are of
	// what is read back in any case.
	NoVerify bool
	// Progress, where not nil, is told how far a step is: "squashfs", "archive", "disk",
	// "verify". Bytes of files; total is 0 where it is not known.
	Progress func(step string, done, total int64)
}

// Result tells what was made.
type Result struct {
	Type        string       `json:"type"` // split or unified
	VM          bool         `json:"vm"`
	Files       []OutputFile `json:"files"` // the archive first
	Fingerprint string       `json:"fingerprint"`
	// Lost tells in plain words what the image does not keep.
	Lost []string `json:"lost,omitempty"`
	// Name is what the image calls itself.
	Name string `json:"name"`
}

// packing is one run of Pack.
type packing struct {
	PackOptions
	image  *Image // nil for one that is packed again
	out    outputs
	result *Result
	meta   *fstree.Tree // metadata.yaml and the templates
	root   *fstree.Node // nil for the disk of a virtual machine that is there already
	disk   *fstree.Node
	when   time.Time
	warn   func(format string, args ...any)
}

// newPacking begins a run.
func newPacking(o PackOptions, vm bool) *packing {
	p := &packing{PackOptions: o, result: &Result{Type: "split", VM: vm}, warn: func(string, ...any) {}}
	if p.out.dir = o.Dir; o.Dir == "" {
		p.out.dir = "."
	}
	if o.Unified {
		p.result.Type = "unified"
	}
	if p.Progress == nil {
		p.Progress = func(string, int64, int64) {}
	}
	return p
}

// Pack writes the image. The files appear under their final names when all is written,
// read back and compared, and those that had the names are replaced. Where it fails, or
// the process ends, none appears.
func (i *Image) Pack(ctx context.Context, o PackOptions) (*Result, error) {
	p := newPacking(o, o.VM != nil)
	p.image, p.root, p.when, p.warn = i, i.Tree.Root, i.Time, i.warn
	defer p.out.discard()
	meta, m, err := i.metadataTree()
	if err != nil {
		return nil, fmt.Errorf("failed to create Incus image: %w", err)
	}
	p.meta, p.result.Name = meta, m.Properties["name"]
	p.lose(i.Tree.Lost...)
	return p.run(ctx)
}

// run writes the files, and publishes them.
func (p *packing) run(ctx context.Context) (*Result, error) {
	if err := p.write(ctx); err != nil {
		return nil, fmt.Errorf("failed to create Incus image: %w", err)
	}
	return p.result, nil
}

func (p *packing) write(ctx context.Context) error {
	write := p.split
	if p.Unified {
		write = p.unified
	}
	if err := write(ctx); err != nil {
		return err
	}
	var err error
	if p.result.Fingerprint, err = p.out.digests(); err != nil {
		return err
	}
	if err := errors.Join(ctx.Err(), p.out.publish()); err != nil {
		return err
	}
	for _, f := range p.out.files {
		p.result.Files = append(p.result.Files, f.info)
	}
	return nil
}

func (p *packing) lose(list ...string) {
	for _, l := range list {
		known := false
		for _, k := range p.result.Lost {
			known = known || k == l
		}
		if !known {
			p.result.Lost = append(p.result.Lost, l)
		}
	}
}

// split writes the metadata and the root file system each into a file of its own.
func (p *packing) split(ctx context.Context) error {
	archive, err := p.out.create("incus.tar" + p.Compression.extension())
	if err != nil {
		return err
	}
	if err := p.archive(ctx, archive, nil, "", nil); err != nil {
		return fmt.Errorf("failed to create metadata tarball: %w", err)
	}
	if p.result.VM {
		disk, err := p.out.create("disk.qcow2")
		if err == nil {
			err = p.writeDisk(ctx, disk)
		}
		if err != nil {
			return fmt.Errorf("failed to create qcow2 image: %w", err)
		}
		return nil
	}
	if err := p.squashfs(ctx); err != nil {
		return fmt.Errorf("failed to create squashfs: %w", err)
	}
	return nil
}

func (p *packing) squashfs(ctx context.Context) error {
	kind, level, err := p.Compression.Squashfs()
	if err != nil {
		return err
	}
	f, err := p.out.create("rootfs.squashfs")
	if err != nil {
		return err
	}
	report, err := squashfs.Write(ctx, f, p.root, squashfs.Options{Compression: kind, Level: level, BlockSize: 1 << 20, Time: p.when,
		Progress: func(done, total int64) {
			f.written(done)
			p.Progress("squashfs", done, total)
		}})
	if err != nil {
		return err
	}
	p.lose(report.Lost...)
	if p.NoVerify {
		return nil
	}
	p.Progress("verify", 0, 0)
	return verifySquashfs(f, report, p.root)
}

// verifySquashfs compares an image with the tree that it was made of, but for what the
// format does not hold, which the report names.
func verifySquashfs(r io.ReaderAt, report *squashfs.Report, root *fstree.Node) error {
	s, err := squashfs.Open(r, report.Size)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	t, err := s.Tree(fstree.Options{})
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	defer t.Close()
	differences, err := fstree.Comparison{Most: 3, TimeUnit: 1e9, Ignore: func(_ string, n *fstree.Node) {
		var kept []fstree.Xattr
		for _, x := range n.Xattrs {
			if strings.HasPrefix(x.Name, "user.") || strings.HasPrefix(x.Name, "trusted.") || strings.HasPrefix(x.Name, "security.") {
				kept = append(kept, x)
			}
		}
		n.Xattrs = kept
		if first, last := time.Unix(0, 0), time.Unix(1<<32-1, 0); n.ModTime.Before(first) {
			n.ModTime = first
		} else if n.ModTime.After(last) {
			n.ModTime = last
		}
	}}.Compare(root, t.Root)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if len(differences) > 0 {
		return fmt.Errorf("what was written is not what was read: %s", strings.Join(differences, "; "))
	}
	return nil
}

// unified writes everything into one archive. The metadata comes first, so that Incus
// finds it without reading all of it.
func (p *packing) unified(ctx context.Context) error {
	name := p.result.Name
	if name == "" {
		name = "incus"
	}
	if strings.ContainsAny(name, "/\\\x00") {
		plain := strings.NewReplacer("/", "_", "\\", "_", "\x00", "_").Replace(name)
		p.warn("the image's name %q is no name for a file: the file is called %q", name, plain)
		name = plain
	}
	archive, err := p.out.create(name + ".tar" + p.Compression.extension())
	if err != nil {
		return err
	}
	switch {
	case !p.result.VM:
		return p.archive(ctx, archive, p.root, "rootfs/", nil)
	case p.disk != nil:
		return p.archive(ctx, archive, nil, "", p.disk)
	}
	temporary := outputs{dir: p.out.dir}
	defer temporary.discard()
	disk, err := temporary.create("rootfs.img")
	if err != nil {
		return err
	}
	if err := p.writeDisk(ctx, disk); err != nil {
		return fmt.Errorf("failed to create qcow2 image: %w", err)
	}
	size, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	node := &fstree.Node{Kind: fstree.File, Mode: 0o644, ModTime: p.when, Size: size, Content: fstree.Section(disk, 0, size)}
	return p.archive(ctx, archive, nil, "", node)
}

// archive writes the metadata, then the tree of root under prefix where there is one, then
// a disk where there is one, and reads it back.
func (p *packing) archive(ctx context.Context, f *output, root *fstree.Node, prefix string, disk *fstree.Node) error {
	z, err := newCompressor(ctx, f, p.Compression)
	if err != nil {
		return err
	}
	plain := sha256.New()
	counted := &counter{ctx: ctx, w: io.MultiWriter(z, plain)}
	if root != nil {
		var total int64
		for _, n := range root.Walk() {
			total += n.Size
		}
		counted.progress = func(done int64) {
			f.written(done)
			p.Progress("archive", min(done, total), total)
		}
	}
	w := paxtar.NewWriter(counted, paxtar.Options{})
	err = w.AddTree("", p.meta.Root)
	if err == nil && root != nil {
		err = w.AddTree(prefix, root)
	}
	if err == nil && disk != nil {
		err = w.Add("rootfs.img", disk)
	}
	if err == nil {
		err = w.Close()
	}
	if err := errors.Join(err, z.Close()); err != nil {
		return fmt.Errorf("failed to pack tarball %q: %w", f.final, err)
	}
	p.lose(w.Lost()...)
	if p.NoVerify {
		return nil
	}
	p.Progress("verify", 0, 0)
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r, _, err := fstree.Decompress(struct{ io.Reader }{f})
	if err != nil {
		return fmt.Errorf("read %s back: %w", f.final, err)
	}
	defer r.Close()
	again := sha256.New()
	if _, err := io.Copy(again, r); err != nil {
		return fmt.Errorf("read %s back: %w", f.final, err)
	}
	if [32]byte(again.Sum(nil)) != [32]byte(plain.Sum(nil)) {
		return fmt.Errorf("read %s back: it does not hold what was written", f.final)
	}
	return nil
}

// counter counts what is written and ends with the context.
type counter struct {
	ctx      context.Context
	w        io.Writer
	done     int64
	progress func(int64)
}

func (c *counter) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.w.Write(p)
	if c.done += int64(n); c.progress != nil {
		c.progress(c.done)
	}
	return n, err
}
