package block

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/trace"
	"github.com/cowl-disk/cowl/opts"
)

// resolve turns a source into a driver (nil: probe) and flat options.
func (op *opener) resolve(spec *nodeSpec) (drv driver.Driver, filename string, d opts.Dict, err error) {
	d = spec.src.Options.Clone()
	if d == nil {
		d = opts.Dict{}
	}
	filename = spec.src.Filename
	if rest, ok := strings.CutPrefix(filename, "json:"); ok {
		j, err := opts.ParseJSON(rest)
		if err != nil {
			return nil, "", nil, err
		}
		for k, v := range j {
			if _, given := d[k]; !given {
				d[k] = v
			}
		}
		filename = ""
	}
	name, ok := d.TakeText("driver")
	if ok && spec.src.Format != "" && spec.src.Format != name {
		return nil, "", nil, driver.Errorf(driver.ErrInvalid, "cannot specify both 'driver' and 'format'")
	}
	if !ok {
		name = spec.src.Format
	}
	if s := spec.src.Storage; s != nil {
		if filename != "" || d.String("filename") != "" {
			return nil, "", nil, driver.Errorf(driver.ErrInvalid, "the source has both a file name and Storage")
		}
		if name == s.Desc().Name {
			return s, "", d, nil
		}
	}
	if name != "" {
		if drv = op.reg.Lookup(name); drv == nil {
			return nil, "", nil, driver.Errorf(driver.ErrInvalid, "unknown driver '%s'", name)
		}
	}
	return drv, filename, d, nil
}

func (op *opener) open(ctx context.Context, spec nodeSpec) (*Image, error) {
	drv, filename, d, err := op.resolve(&spec)
	if err != nil {
		return nil, err
	}
	if err := op.budget.AddNode(); err != nil {
		return nil, err
	}
	img, err := op.openNode(ctx, spec, drv, filename, d)
	if err != nil {
		op.budget.RemoveNode()
	}
	return img, err
}

// openNode opens the node that spec asks for. drv is nil if no driver was named.
func (op *opener) openNode(ctx context.Context, spec nodeSpec, drv driver.Driver, filename string, d opts.Dict) (*Image, error) {
	common, err := takeCommon(d, &spec)
	if err != nil {
		return nil, err
	}
	if drv != nil && drv.Desc().Kind == driver.KindProtocol && spec.src.Storage != nil && drv != spec.src.Storage {
		return nil, driver.Errorf(driver.ErrInvalid, "the source has Storage, which the protocol '%s' does not take: name a format", drv.Desc().Name)
	}
	if drv == nil && spec.protocol && spec.src.Storage != nil {
		drv = spec.src.Storage
	}
	if drv == nil && !spec.protocol {
		return op.openProbed(ctx, spec, filename, d, common)
	}
	if drv == nil {
		if drv, filename, err = op.protocolOf(filename, d); err != nil {
			return nil, err
		}
	}
	if len(drv.Desc().Schemes) > 0 {
		spec.protocol = true
		if filename, err = op.parseName(drv, filename, d); err != nil {
			return nil, err
		}
	}
	children, err := op.openChildren(ctx, spec, drv.Desc(), filename, d)
	if err != nil {
		return nil, err
	}
	return op.openDriver(ctx, spec, drv, children, filename, d, common)
}

// protocolOf finds the protocol of a file name. One that an option gives is a plain
// name, whatever it looks like.
func (op *opener) protocolOf(filename string, d opts.Dict) (driver.Driver, string, error) {
	if filename != "" {
		drv, _, err := op.reg.protocolFor(filename)
		return drv, filename, err
	}
	name := d.String("filename")
	if name == "" {
		return nil, "", driver.Errorf(driver.ErrInvalid, "must specify either driver or file")
	}
	drv, err := op.reg.plainName(name)
	return drv, "", err
}

// parseName turns a file name into options of a driver with schemes, and returns
// what is left of it: the name of the primary child of a filter that reads none.
func (op *opener) parseName(drv driver.Driver, filename string, d opts.Dict) (string, error) {
	if filename == "" {
		return "", nil
	}
	if p, ok := drv.(driver.FilenameParser); ok {
		parsed, err := p.ParseFilename(filename)
		if err != nil {
			return "", err
		}
		for k, v := range parsed {
			if _, given := d[k]; !given {
				d[k] = v
			}
		}
		return "", nil
	}
	if drv.Desc().Kind == driver.KindFilter {
		return filename, nil
	}
	if _, given := d["filename"]; !given {
		rest := filename
		if scheme, r, ok := schemeOf(filename); ok && op.reg.scheme[scheme] == drv {
			rest = r
		}
		d["filename"] = rest
	}
	return "", nil
}

// openProbed opens a file and, on it, the format that the file is in.
func (op *opener) openProbed(ctx context.Context, spec nodeSpec, filename string, d opts.Dict, c common) (*Image, error) {
	const role = "file"
	sub, err := takeChild(d, role)
	if err != nil {
		return nil, err
	}
	if filename == "" && len(sub) == 0 && spec.src.Storage == nil {
		return nil, driver.Errorf(driver.ErrInvalid, "must specify either driver or file")
	}
	fspec := op.childSpec(spec, role, driver.KindFormat, driver.UseMetadata)
	fspec.src = Source{Filename: filename, Options: sub, Storage: spec.src.Storage}
	// What to ask for is known once the format is: see relock.
	fspec.access = spec.access
	fspec.access.Perm, fspec.access.Shared = 0, driver.PermAll
	file, err := op.open(ctx, fspec)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Image, error) {
		closeQuietly(ctx, file)
		return nil, err
	}
	drv, err := op.reg.probe(ctx, file, file.name)
	if err != nil {
		return fail(driver.Errorf(nil, "could not read image for determining its format: %w", err))
	}
	if drv == nil {
		return fail(driver.Errorf(driver.ErrFormat, "could not determine image format: no driver recognises it"))
	}
	if err := relock(ctx, file, childAccess(spec.access, drv.Desc().Child(role).Use)); err != nil {
		return fail(err)
	}
	spec.probed = true
	return op.openDriver(ctx, spec, drv, []Child{{Role: role, Image: file}}, filename, d, c)
}

// takeChild removes the options of a child from d.
func takeChild(d opts.Dict, role string) (opts.Dict, error) {
	if v, ok := d[role]; ok && v != nil {
		return nil, noNode(v)
	}
	delete(d, role)
	return d.Sub(role), nil
}

// openChildren opens the children that the driver has declared and does not open
// itself. filename names the primary one.
func (op *opener) openChildren(ctx context.Context, spec nodeSpec, desc *driver.Desc, filename string, d opts.Dict) (children []Child, err error) {
	defer func() {
		if err != nil {
			closeChildren(ctx, children)
			children = nil
		}
	}()
	primary := desc.Primary()
	for i := range desc.Children {
		c := &desc.Children[i]
		if c.ByDriver || c.Use == driver.UseBacking {
			continue
		}
		if c.List {
			if children, err = op.openList(ctx, spec, desc, c, d, children); err != nil {
				return children, err
			}
			continue
		}
		name, storage := "", driver.Driver(nil)
		if c == primary {
			name, storage = filename, spec.src.Storage
		}
		if c.NameOption != "" {
			if v, ok := d.TakeText(c.NameOption); ok {
				name = v
			}
		}
		sub, err := takeChild(d, c.Role)
		if err != nil {
			return children, err
		}
		if name == "" && len(sub) == 0 && storage == nil {
			if c.Optional {
				continue
			}
			return children, driver.Errorf(driver.ErrInvalid, "a block device must be specified for \"%s\"", c.Role)
		}
		img, err := op.openChild(ctx, spec, desc.Kind, c, c.Role, Source{Filename: name, Options: sub, Storage: storage})
		if err != nil {
			return children, err
		}
		children = append(children, Child{Role: c.Role, Image: img})
	}
	return children, nil
}

// openList opens the members of a list of children, numbered from 0.
func (op *opener) openList(ctx context.Context, spec nodeSpec, desc *driver.Desc, c *driver.ChildDesc, d opts.Dict, children []Child) ([]Child, error) {
	for i := 0; ; i++ {
		role := c.Role + "." + strconv.Itoa(i)
		sub, err := takeChild(d, role)
		if err != nil || len(sub) == 0 {
			return children, err
		}
		img, err := op.openChild(ctx, spec, desc.Kind, c, role, Source{Options: sub})
		if err != nil {
			return children, err
		}
		children = append(children, Child{Role: role, Image: img})
	}
}

func (op *opener) openChild(ctx context.Context, spec nodeSpec, kind driver.Kind, c *driver.ChildDesc, role string, src Source) (*Image, error) {
	cs := op.childSpec(spec, role, kind, c.Use)
	cs.src = src
	return op.open(ctx, cs)
}

// childSpec says how to open a child of a node of the kind that is opened as spec.
func (op *opener) childSpec(spec nodeSpec, role string, kind driver.Kind, use driver.Use) nodeSpec {
	return nodeSpec{role: role, chain: spec.chain, access: childAccess(spec.access, use), unmap: true, backing: spec.backing, cache: spec.cache,
		// Formats are probed below filters with several children only: below a
		// format, and where bytes are passed through, the child is what it is.
		protocol: kind == driver.KindFormat || use != driver.UseData}
}

// childAccess gives the permissions to ask for on a child.
func childAccess(a driver.Access, use driver.Use) driver.Access {
	if use == driver.UseFiltered {
		return a
	}
	if a.Write {
		a.Perm |= driver.PermWrite | driver.PermResize
	}
	if !a.NoIO {
		a.Perm |= driver.PermConsistentRead
	}
	// Metadata must not change under us.
	a.Shared &^= driver.PermWrite | driver.PermResize
	return a
}

func closeChildren(ctx context.Context, children []Child) {
	for i := len(children) - 1; i >= 0; i-- {
		closeQuietly(ctx, children[i].Image)
	}
}

// openDriver opens the node on its children, which it closes if it fails, and its
// backing file. The driver of a format that was probed has written nothing yet.
func (op *opener) openDriver(ctx context.Context, spec nodeSpec, drv driver.Driver, children []Child, name string, d opts.Dict, c common) (*Image, error) {
	trace.BdrvOpenCommon.LogText(cmp.Or(name, d.String("filename")), drv.Desc().Name)
	desc := drv.Desc()
	img := op.newImage(spec, drv, c)
	img.children = children
	img.probedRaw = spec.probed && spec.access.Write && desc.Fallback
	fail := func(err error) (*Image, error) {
		closeChildren(ctx, img.children)
		return nil, err
	}
	var backOpts opts.Dict
	noBacking := false
	if desc.Kind != driver.KindProtocol {
		var err error
		if backOpts, noBacking, err = takeBacking(d, desc, spec.backing); err != nil {
			return fail(err)
		}
		img.env.OpenChild = op.childOpener(spec, img, d)
		img.env.OpenPart = op.partOpener(spec, img)
		if n, ok := Ability[driver.Neighbours](img.Tree().Protocol()); ok {
			img.env.Neighbours = n.Neighbours
		}
	}
	if name == "" {
		name = d.String("filename")
	}
	req := &driver.OpenRequest{Name: name, Access: spec.access, Cache: spec.cache, BackingGiven: len(backOpts) > 0, Sequential: op.o.Use.Sequential, Repeatable: op.o.Use.Repeatable, Env: img.env}
	for _, c := range children {
		req.Children = append(req.Children, driver.OpenedChild{Role: c.Role, Storage: c.Image})
	}
	if f := img.Tree().File(); f != nil {
		req.File, req.Name = f, f.name
	}
	own := d.Clone()
	req.Options = own
	if img.probedRaw && op.o.Messages.ProbedRaw != nil && spec.role != "backing" {
		op.o.Messages.ProbedRaw(img.Tree().File().name)
	}
	node, err := drv.Open(ctx, req)
	if err != nil {
		return fail(optionError(err, desc))
	}
	if err := img.attach(node); err != nil {
		_ = node.Close(ctx)
		return fail(err)
	}
	if img.storage != nil {
		op.nameStorage(ctx, img, name, own)
		return img, nil
	}
	if err := op.finishFormat(ctx, spec, img, own, backOpts, noBacking); err != nil {
		_ = node.Close(ctx)
		return fail(err)
	}
	return img, nil
}

// nameStorage names a protocol or a filter: as the driver says, else by its options.
func (op *opener) nameStorage(ctx context.Context, img *Image, name string, own opts.Dict) {
	if img.desc.Kind == driver.KindProtocol {
		img.name = name
	}
	if n, ok := img.node.(driver.Named); ok && n.Filename() != "" {
		img.name = n.Filename()
	}
	if img.name == "" {
		img.name = jsonName(img, own)
	}
}

// finishFormat names a format and opens its backing file.
func (op *opener) finishFormat(ctx context.Context, spec nodeSpec, img *Image, own, backOpts opts.Dict, leaveOut bool) error {
	noBacking := leaveOut
	if noBacking {
		// Leaving out what is not there changes nothing.
		if ref, err := img.backingRef(ctx); err == nil && ref == nil {
			noBacking = false
		}
	}
	file := img.Tree().File()
	img.name = formatName(img, file, own, backOpts, noBacking)
	if !spec.backing || leaveOut || !img.desc.HasBacking() {
		return nil
	}
	chain := append(spec.chain[:len(spec.chain):len(spec.chain)], identity(file.name))
	// Which file a json: name refers to is known only when it is open.
	if err := chainLoop(spec.chain, chain[len(chain)-1], img.name); err != nil {
		return err
	}
	return op.openBacking(ctx, spec, img, backOpts, chain)
}

func (op *opener) newImage(spec nodeSpec, drv driver.Driver, c common) *Image {
	img := &Image{reg: op.reg, drv: drv, desc: drv.Desc(), writable: spec.access.Write, access: spec.access,
		unmap: spec.unmap, detect: c.detect, cache: spec.cache}
	img.env = &driver.Env{Gate: op.o.Gate, Budget: op.budget, Log: op.o.Messages.Log, Warn: op.o.Messages.Warn, Report: op.o.Messages.Report, Words: op.o.Messages.Words, Guard: &img.guard, Objects: op.o.Objects, Connections: op.o.Connections}
	if img.desc.Serial {
		img.serial = &sync.Mutex{}
	}
	if spec.role != "" {
		// Only the top of the tree turns writes into flushes.
		img.cache.WriteThrough = false
	}
	return img
}

// noNode is the error for a reference to a node: there is none beside what is being opened.
func noNode(name any) error {
	return driver.Errorf(driver.ErrInvalid, "cannot find device='%[1]s' nor node-name='%[1]s'", opts.Text(name))
}

// optionError is the error for an option that the driver does not have.
func optionError(err error, desc *driver.Desc) error {
	var unknown *opts.UnknownError
	if !errors.As(err, &unknown) {
		return err
	}
	if desc.Kind == driver.KindProtocol {
		return driver.Errorf(driver.ErrInvalid, "block protocol '%s' doesn't support the option '%s'", desc.Name, unknown.Name)
	}
	return driver.Errorf(driver.ErrInvalid, "block format '%s' does not support the option '%s'", desc.Name, unknown.Name)
}

// attach finds out what a node can do.
func (img *Image) attach(node driver.Node) error {
	img.node = node
	img.limits = node.Limits()
	img.allocator, _ = node.(driver.Allocator)
	img.zeroer, _ = node.(driver.ZeroWriter)
	img.discarder, _ = node.(driver.Discarder)
	if !img.node.Traits().NoCompression {
		img.compressor, _ = node.(driver.Compressor)
	}
	var ok bool
	if img.desc.Kind == driver.KindFormat {
		if img.format, ok = node.(driver.Format); !ok {
			return fmt.Errorf("driver %s opened a node that is not a format", img.desc.Name)
		}
		img.events = driver.EventsOf(img.Tree().File())
		if img.probedRaw {
			// Clients write whole sectors, as with QEMU.
			img.limits.RequestAlignment = max(img.limits.RequestAlignment, probedUnit)
		}
		return nil
	}
	if img.storage, ok = node.(driver.Storage); !ok {
		return fmt.Errorf("driver %s opened a node that is not storage", img.desc.Name)
	}
	if img.desc.Kind == driver.KindFilter {
		img.filtered = img.Tree().Child(img.desc.PassesThrough())
	}
	return nil
}

// relock gives a child that was opened for probing the permissions that its
// format needs.
func relock(ctx context.Context, file *Image, access driver.Access) error {
	file.access = access
	if r, ok := file.node.(driver.Relocker); ok {
		return r.Relock(ctx, access)
	}
	return nil
}

// childOpener makes the function by which a driver opens further children.
func (op *opener) childOpener(spec nodeSpec, img *Image, d opts.Dict) func(context.Context, driver.ChildRef) (driver.Storage, error) {
	return func(ctx context.Context, ref driver.ChildRef) (driver.Storage, error) {
		if ref.Options == nil {
			ref.Options = d.Sub(ref.Role)
		}
		child, err := op.openRef(ctx, spec, img, ref)
		if err != nil {
			return nil, err
		}
		img.children = append(img.children, Child{Role: ref.Role, Image: child})
		return child, nil
	}
}

// partOpener makes the function by which a driver opens files that it closes itself.
func (op *opener) partOpener(spec nodeSpec, img *Image) func(context.Context, driver.ChildRef) (driver.Storage, error) {
	return func(ctx context.Context, ref driver.ChildRef) (driver.Storage, error) {
		ref.Options = nil
		part, err := op.openRef(ctx, spec, img, ref)
		if err != nil {
			return nil, err
		}
		return part, nil
	}
}

// openRef opens a file that an image or its options name.
func (op *opener) openRef(ctx context.Context, spec nodeSpec, img *Image, ref driver.ChildRef) (*Image, error) {
	o := ref.Options
	src := Source{Options: o, Format: ref.Format}
	if _, given := o["filename"]; !given && len(o) == 0 {
		var err error
		if src.Filename, err = img.Tree().Resolve(ref.Filename); err != nil {
			return nil, err
		}
		if err := op.o.Gate.Allow(ctx, img.Tree().File().name, ref.Role, src.Filename); err != nil {
			return nil, driver.Errorf(driver.ErrGate, "%w", err)
		}
	}
	access := spec.access
	access.Shared &^= driver.PermWrite | driver.PermResize
	if access.Write {
		access.Perm |= driver.PermResize
	}
	if ref.ReadOnly {
		access.Write = false
		access.Perm &^= driver.PermWrite | driver.PermResize
	}
	child, err := op.open(ctx, nodeSpec{src: src, role: ref.Role, protocol: ref.Format == "", chain: spec.chain,
		access: access, unmap: true, cache: spec.cache})
	if err != nil {
		return nil, &OpenError{Path: src.Filename, Role: ref.Role, Err: err}
	}
	return child, nil
}
