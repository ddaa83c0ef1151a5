package block

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// Source names an image: by file name ("disk.qcow2", "json:{…}",
// "nbd://host/export"), by options ("driver", "file.filename" …), or both.
type Source struct {
	Filename string
	Format   string // "" means: the driver option, else probe
	Options  opts.Dict
}

// OpenOptions say how to open an image.
type OpenOptions struct {
	Write      bool
	Resize     bool // the size will change: ask others not to count on it
	Cache      driver.Cache
	Exclusive  bool // nobody else may write or resize the image meanwhile
	FixedSize  bool // nobody else may resize it
	ForceShare bool // -U: do not take image locks
	Unmap      bool // let discard requests through
	NoBacking  bool
	NoIO       bool // only metadata will be read
	Check      bool // for check and repair: open leniently
	Sequential bool // the disk will be passed through once, in order: small caches do
	Snapshot   string
	// WriteBacking opens one layer of the backing chain for writing and resizing:
	// the one that WriteBase names (as FindBacking finds it), or the first.
	WriteBacking bool
	WriteBase    string

	// Gate decides about the files that the image names. It must be set.
	Gate driver.Gate
	// Objects holds the secrets and TLS credentials that options refer to by id; nil
	// if there are none.
	Objects driver.Objects
	// Budget bounds what the image may cost; nil means the defaults.
	Budget *driver.Budget
	// Warn takes warnings for the user, nil drops them. Log may be nil.
	Warn func(msg string)
	Log  *slog.Logger
	// ProbedRaw is called when no format was given and an image that is to be
	// written was taken for raw.
	ProbedRaw func(name string)
}

// opener carries what is the same for all nodes of a tree.
type opener struct {
	reg    *Registry
	o      OpenOptions
	budget *driver.Budget
	// wroteBacking: the layer that WriteBacking asks for was met.
	wroteBacking bool
}

// node says what to open at one place of the tree.
type nodeSpec struct {
	src      Source
	role     string   // "" at the top
	protocol bool     // do not add a format: open the protocol itself
	chain    []string // identities of the images above, for finding loops
	access   driver.Access
	unmap    bool
	backing  bool // open the backing chain
	cache    driver.Cache
}

// Open opens an image. The caller closes it.
func Open(ctx context.Context, reg *Registry, src Source, o OpenOptions) (*Image, error) {
	if o.Gate == nil {
		return nil, driver.Errorf(driver.ErrInvalid, "no gate given: pass driver.DenyAll, driver.AllowAll or one of your own")
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	op := &opener{reg: reg, o: o, budget: o.Budget}
	if op.budget == nil {
		op.budget = &driver.Budget{}
	}
	access := driver.Access{Write: o.Write, Shared: driver.PermAll, NoLock: o.ForceShare, Check: o.Check, NoIO: o.NoIO}
	if !o.NoIO {
		access.Perm = driver.PermConsistentRead
		if o.Write {
			access.Perm |= driver.PermWrite
		}
	}
	if o.Exclusive {
		access.Shared &^= driver.PermWrite | driver.PermResize
	}
	if o.FixedSize {
		access.Shared &^= driver.PermResize
	}
	if o.Resize {
		access.Perm |= driver.PermResize
	}
	img, err := op.open(ctx, nodeSpec{src: src, access: access, unmap: o.Unmap, backing: !o.NoBacking, cache: o.Cache})
	if err != nil {
		name := src.Filename
		if name == "" && len(src.Options) > 0 {
			name = listText(src)
		}
		return nil, &OpenError{Path: name, Err: err}
	}
	if o.Snapshot != "" {
		s, ok := img.node.(driver.SnapshotOpener)
		if !ok {
			err = driver.Errorf(driver.ErrUnsupported, "the format %s has no internal snapshots", img.Format())
		} else {
			err = s.OpenSnapshot(ctx, o.Snapshot)
		}
		if err != nil {
			return nil, errors.Join(err, img.Close(ctx))
		}
	}
	return img, nil
}

func listText(src Source) string {
	var b strings.Builder
	for i, k := range src.Options.Keys() {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k + "=" + opts.EscapeComma(opts.Text(src.Options[k])))
	}
	return b.String()
}

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
	name, ok := d.Take("driver")
	if ok && spec.src.Format != "" && spec.src.Format != name {
		return nil, "", nil, driver.Errorf(driver.ErrInvalid, "Cannot specify both 'driver' and 'format'")
	}
	if !ok {
		name = spec.src.Format
	}
	if name != "" {
		if drv = op.reg.Lookup(name); drv == nil {
			return nil, "", nil, driver.Errorf(driver.ErrInvalid, "Unknown driver '%s'", name)
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

func (op *opener) openNode(ctx context.Context, spec nodeSpec, drv driver.Driver, filename string, d opts.Dict) (*Image, error) {
	common, err := takeCommon(d, &spec)
	if err != nil {
		return nil, err
	}
	if drv != nil && drv.Desc().Kind == driver.KindProtocol || drv == nil && spec.protocol {
		return op.openProtocol(ctx, spec, drv, filename, d, common)
	}
	fileOpts := d.Sub("file")
	if v, ok := d["file"]; ok {
		return nil, driver.Errorf(driver.ErrInvalid, "Cannot find device='%[1]s' nor node-name='%[1]s'", opts.Text(v))
	}
	if filename == "" && len(fileOpts) == 0 {
		if drv == nil {
			return nil, driver.Errorf(driver.ErrInvalid, "Must specify either driver or file")
		}
		return nil, driver.Errorf(driver.ErrInvalid, "A block device must be specified for \"file\"")
	}
	access := spec.access
	if drv != nil {
		access = childAccess(access, drv.Desc().FileRole)
	} else {
		// What to ask for is known once the format is: see relock.
		access.Perm, access.Shared = 0, driver.PermAll
	}
	fspec := nodeSpec{src: Source{Filename: filename, Options: fileOpts}, role: "file", protocol: true,
		chain: spec.chain, access: access, unmap: true, backing: spec.backing, cache: spec.cache}
	file, err := op.open(ctx, fspec)
	if err != nil {
		return nil, err
	}
	img, err := op.openFormat(ctx, spec, drv, file, d, common)
	if err != nil {
		closeQuietly(ctx, file)
		return nil, err
	}
	return img, nil
}

// closeQuietly closes what was opened for an attempt that failed: that failure
// is the one to report.
func closeQuietly(ctx context.Context, img *Image) {
	_ = img.Close(context.WithoutCancel(ctx))
}

// childAccess gives the permissions to ask for on the "file" child of a format.
func childAccess(a driver.Access, role driver.FileRole) driver.Access {
	if role == driver.FileFiltered {
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

// common holds the options that every node has.
type common struct {
	detect detectZeroes
}

func takeCommon(d opts.Dict, spec *nodeSpec) (common, error) {
	var c common
	flag := func(key string, set func(bool)) error {
		text, ok := d.Take(key)
		if !ok {
			return nil
		}
		b, err := opts.ParseBool(text)
		if err != nil {
			return &opts.ValueError{Name: key, Want: "'on' or 'off'"}
		}
		set(b)
		return nil
	}
	d.Take("node-name")
	err := errors.Join(
		flag("read-only", func(b bool) {
			if b {
				spec.access.Write = false
				spec.access.Perm &^= driver.PermWrite | driver.PermResize
			}
		}),
		flag("auto-read-only", func(bool) {}),
		flag("force-share", func(b bool) { spec.access.NoLock = spec.access.NoLock || b }),
		flag("cache.direct", func(b bool) { spec.cache.Direct = b }),
		flag("cache.no-flush", func(b bool) { spec.cache.NoFlush = b }),
		flag("cache.writeback", func(b bool) { spec.cache.WriteThrough = !b }),
	)
	if err != nil {
		return c, err
	}
	switch v, _ := d.Take("discard"); v {
	case "":
	case "unmap", "on":
		spec.unmap = true
	case "ignore", "off":
		spec.unmap = false
	default:
		return c, driver.Errorf(driver.ErrInvalid, "Invalid discard option")
	}
	switch v, _ := d.Take("detect-zeroes"); v {
	case "", "off":
	case "on":
		c.detect = detectOn
	case "unmap":
		if !spec.unmap {
			return c, driver.Errorf(driver.ErrInvalid, "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap")
		}
		c.detect = detectUnmap
	default:
		return c, driver.Errorf(driver.ErrInvalid, "invalid parameter value: %s", v)
	}
	return c, nil
}

func (op *opener) newImage(spec nodeSpec, drv driver.Driver, c common) *Image {
	img := &Image{reg: op.reg, drv: drv, desc: drv.Desc(), writable: spec.access.Write, access: spec.access,
		unmap: spec.unmap, detect: c.detect, cache: spec.cache}
	img.env = &driver.Env{Gate: op.o.Gate, Budget: op.budget, Log: op.o.Log, Warn: op.o.Warn, Guard: &img.guard, Objects: op.o.Objects}
	if img.desc.Serial {
		img.serial = &sync.Mutex{}
	}
	if spec.role != "" {
		// Only the top of the tree turns writes into flushes.
		img.cache.WriteThrough = false
	}
	return img
}

// protocolFor finds the protocol driver of a file name.
func (r *Registry) protocolFor(filename string) (driver.Driver, string, error) {
	if scheme, rest, ok := schemeOf(filename); ok {
		if d := r.scheme[scheme]; d != nil {
			return d, rest, nil
		}
		return nil, "", driver.Errorf(driver.ErrInvalid, "Unknown protocol '%s'", scheme)
	}
	if d := r.byName["host_device"]; d != nil && isDevice(filename) {
		return d, filename, nil
	}
	if d := r.byName["file"]; d != nil {
		return d, filename, nil
	}
	return nil, "", driver.Errorf(driver.ErrInvalid, "no driver for '%s'", filename)
}

func (op *opener) openProtocol(ctx context.Context, spec nodeSpec, drv driver.Driver, filename string, d opts.Dict, c common) (*Image, error) {
	name := filename
	if filename == "" && drv == nil {
		// A child given by options alone: "file.filename=…".
		fn, ok := d.Take("filename")
		if !ok {
			return nil, driver.Errorf(driver.ErrInvalid, "Must specify either driver or file")
		}
		filename, name = fn, fn
	}
	if filename != "" {
		found, rest, err := drv, filename, error(nil)
		if drv == nil {
			if found, rest, err = op.reg.protocolFor(filename); err != nil {
				return nil, err
			}
		} else if scheme, r, ok := schemeOf(filename); ok && op.reg.scheme[scheme] == drv {
			rest = r
		}
		drv = found
		if p, ok := drv.(driver.FilenameParser); ok {
			parsed, err := p.ParseFilename(filename)
			if err != nil {
				return nil, err
			}
			for k, v := range parsed {
				if _, given := d[k]; !given {
					d[k] = v
				}
			}
		} else if _, given := d["filename"]; !given {
			d["filename"] = rest
		}
	}
	img := op.newImage(spec, drv, c)
	req := &driver.OpenRequest{Name: name, Options: d, Access: spec.access, Cache: spec.cache, Env: img.env}
	node, err := drv.Open(ctx, req)
	if err != nil {
		return nil, optionError(err, drv.Desc())
	}
	st, ok := node.(driver.Storage)
	if !ok {
		return nil, errors.Join(fmt.Errorf("driver %s opened a node that is not storage", drv.Desc().Name), node.Close(ctx))
	}
	img.attach(node)
	img.storage = st
	img.name = name
	if img.name == "" {
		if img.name = d.String("filename"); img.name == "" {
			img.name = jsonName(img, d, nil)
		}
	}
	if info, err := node.Info(ctx); err == nil && info.Filename != "" {
		img.name = info.Filename
	}
	return img, nil
}

// optionError words an unknown option the way users know.
func optionError(err error, desc *driver.Desc) error {
	var unknown *opts.UnknownError
	if !errors.As(err, &unknown) {
		return err
	}
	if desc.Kind == driver.KindProtocol {
		return driver.Errorf(driver.ErrInvalid, "Block protocol '%s' doesn't support the option '%s'", desc.Name, unknown.Name)
	}
	return driver.Errorf(driver.ErrInvalid, "Block format '%s' does not support the option '%s'", desc.Name, unknown.Name)
}

// attach finds out what a node can do.
func (img *Image) attach(node driver.Node) {
	img.node = node
	img.limits = node.Limits()
	img.format, _ = node.(driver.Format)
	if _, isStorage := node.(driver.Storage); isStorage {
		img.format = nil
	}
	img.allocator, _ = node.(driver.Allocator)
	img.zeroer, _ = node.(driver.ZeroWriter)
	img.discarder, _ = node.(driver.Discarder)
	if !img.limits.NoCompression {
		img.compressor, _ = node.(driver.Compressor)
	}
}

func (op *opener) openFormat(ctx context.Context, spec nodeSpec, drv driver.Driver, file *Image, d opts.Dict, c common) (*Image, error) {
	probed := drv == nil
	if probed {
		var err error
		if drv, err = op.reg.probe(ctx, file, file.name); err != nil {
			return nil, fmt.Errorf("Could not read image for determining its format: %w", err)
		}
		if drv == nil {
			return nil, driver.Errorf(driver.ErrFormat, "Could not determine image format: no driver recognises it")
		}
		if err := relock(ctx, file, childAccess(spec.access, drv.Desc().FileRole)); err != nil {
			return nil, err
		}
	}
	desc := drv.Desc()
	img := op.newImage(spec, drv, c)
	img.children = []Child{{Role: "file", Image: file}}
	img.probedRaw = probed && spec.access.Write && desc.Name == "raw"
	backOpts, noBacking := takeBacking(d)
	leaveOut := noBacking
	img.env.OpenChild = op.childOpener(spec, img, d)
	chain := append(spec.chain[:len(spec.chain):len(spec.chain)], identity(file.name))
	fail := func(err error) (*Image, error) {
		for _, ch := range img.children[1:] {
			closeQuietly(ctx, ch.Image)
		}
		return nil, err
	}
	own := d.Clone()
	if img.probedRaw && op.o.ProbedRaw != nil && spec.role != "backing" {
		op.o.ProbedRaw(file.name)
	}
	node, err := drv.Open(ctx, &driver.OpenRequest{Name: file.name, Options: own, File: file,
		Access: spec.access, Cache: spec.cache, BackingGiven: len(backOpts) > 0, Sequential: op.o.Sequential, Env: img.env})
	if err != nil {
		return fail(optionError(err, desc))
	}
	img.attach(node)
	if img.format == nil {
		_ = node.Close(ctx)
		return fail(fmt.Errorf("driver %s opened a node that is not a format", desc.Name))
	}
	if noBacking {
		// Leaving out what is not there changes nothing.
		if info, err := node.Info(ctx); err == nil && info.Backing == nil {
			noBacking = false
		}
	}
	img.name = formatName(img, file, own, backOpts, noBacking)
	if spec.backing && desc.Backing && !leaveOut {
		// A name in JSON says only when it is open which file it means.
		err := chainLoop(spec.chain, chain[len(chain)-1], img.name)
		if err == nil {
			err = op.openBacking(ctx, spec, img, backOpts, chain)
		}
		if err != nil {
			_ = node.Close(ctx)
			return fail(err)
		}
	}
	return img, nil
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

// takeBacking removes the options for the backing file.
func takeBacking(d opts.Dict) (back opts.Dict, none bool) {
	back = d.Sub("backing")
	if v, ok := d["backing"]; ok {
		delete(d, "backing")
		if v == nil || opts.Text(v) == "" {
			return nil, true
		}
	}
	return back, false
}

// childOpener makes the function by which a driver opens further children.
func (op *opener) childOpener(spec nodeSpec, img *Image, d opts.Dict) func(context.Context, driver.ChildRef) (driver.Storage, error) {
	return func(ctx context.Context, ref driver.ChildRef) (driver.Storage, error) {
		o := ref.Options
		if o == nil {
			o = d.Sub(ref.Role)
		}
		src := Source{Options: o, Format: ref.Format}
		if _, given := o["filename"]; !given && len(o) == 0 {
			src.Filename = CombinePath(img.File().name, ref.Filename)
			if err := op.o.Gate.Allow(ctx, img.File().name, ref.Role, src.Filename); err != nil {
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
		img.children = append(img.children, Child{Role: ref.Role, Image: child})
		return child, nil
	}
}

// chainLoop returns an error if the image id, called name, is in chain.
func chainLoop(chain []string, id, name string) error {
	if slices.Contains(chain, id) {
		return driver.Errorf(driver.ErrCorrupt, "the backing file chain is a loop: '%s' stands in it twice", name)
	}
	return nil
}

func (op *opener) openBacking(ctx context.Context, spec nodeSpec, img *Image, o opts.Dict, chain []string) error {
	info, err := img.node.Info(ctx)
	if err != nil {
		return err
	}
	src := Source{Options: o}
	_, namedFile := o["file.filename"]
	_, namedDriver := o["file.driver"]
	switch {
	case namedFile || namedDriver:
	case info.Backing != nil && info.Backing.Filename != "":
		src.Filename = CombinePath(img.File().name, info.Backing.Filename)
		if _, given := o["driver"]; !given {
			src.Format = info.Backing.Format
		}
		if err := op.o.Gate.Allow(ctx, img.File().name, "backing", src.Filename); err != nil {
			return driver.Errorf(driver.ErrGate, "%w", err)
		}
		if err := chainLoop(chain, identity(strings.TrimPrefix(src.Filename, "file:")), src.Filename); err != nil {
			return &OpenError{Path: src.Filename, Role: "backing", Err: err}
		}
	case len(o) > 0:
	default:
		return nil
	}
	access := driver.Access{Shared: driver.PermAll, NoLock: spec.access.NoLock, NoIO: spec.access.NoIO}
	if !access.NoIO {
		access.Perm = driver.PermConsistentRead
	}
	if op.o.WriteBacking && !op.wroteBacking &&
		(op.o.WriteBase == "" || info.Backing != nil && namesBacking(img, info.Backing.Filename, op.o.WriteBase)) {
		op.wroteBacking = true
		access.Write = true
		access.Perm |= driver.PermConsistentRead | driver.PermWrite | driver.PermResize
	}
	cache := spec.cache
	cache.WriteThrough = false
	b, err := op.open(ctx, nodeSpec{src: src, role: "backing", chain: chain, access: access, unmap: true, backing: true, cache: cache})
	if err != nil {
		return &OpenError{Path: src.Filename, Role: "backing", Err: err}
	}
	img.backing = b
	return nil
}
