package block

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// Source names an image: by file name ("disk.qcow2", "json:{…}",
// "nbd://host/export"), by options ("driver", "file.filename" …), or both; or holds
// the bytes of one.
type Source struct {
	Filename string
	Format   string // "" means: the driver option, else probe
	Options  opts.Dict
	// Storage, if not nil, opens the bytes of the image in place of Filename, and of
	// options of the child "file": bytes that the calling program holds (package
	// protocol/caller, and file.Handle). It is a protocol that needs no options.
	// Format, if it is the name of Storage itself, gives those bytes as they are.
	Storage driver.Driver
}

// opener carries what is the same for all nodes of a tree.
type opener struct {
	reg    *Registry
	o      OpenOptions
	budget *driver.Budget
	// wroteBacking: the layer that WriteBacking asks for was opened.
	wroteBacking bool
}

// node says what to open at one place of the tree.
type nodeSpec struct {
	src      Source
	role     string   // "" at the top
	protocol bool     // do not add a format: open the protocol itself
	probed   bool     // the format was found by probing
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
	if o.Messages.Warn == nil {
		o.Messages.Warn = func(string) {}
	}
	if o.Messages.Report == nil {
		o.Messages.Report = func(string) {}
	}
	if o.Messages.Log == nil {
		o.Messages.Log = slog.New(slog.DiscardHandler)
	}
	op := &opener{reg: reg, o: o, budget: o.Budget}
	if op.budget == nil {
		op.budget = &driver.Budget{}
	}
	access := driver.Access{Write: o.Write, Shared: driver.PermAll, NoLock: o.Sharing.Force, Check: o.Use.Check, NoIO: o.Use.NoIO}
	if !o.Use.NoIO {
		access.Perm = driver.PermConsistentRead
		if o.Write {
			access.Perm |= driver.PermWrite
		}
	}
	if o.Sharing.Exclusive {
		access.Shared &^= driver.PermWrite | driver.PermResize
	}
	if o.Sharing.FixedSize {
		access.Shared &^= driver.PermResize
	}
	if o.Sharing.Resize {
		access.Perm |= driver.PermResize
	}
	img, err := op.open(ctx, nodeSpec{src: src, access: access, unmap: o.Unmap, backing: !o.Chain.NoBacking, cache: o.Cache})
	if err != nil {
		name := src.Filename
		if name == "" && len(src.Options) > 0 {
			name = listText(src)
		}
		return nil, &OpenError{Path: name, Err: err}
	}
	if o.Snapshot != "" {
		s, ok := Ability[driver.SnapshotOpener](img)
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

// closeQuietly closes what was opened for an attempt that failed: that failure
// is the one to report.
func closeQuietly(ctx context.Context, img *Image) {
	last, cancel := driver.Farewell(ctx, driver.ClosingTime)
	defer cancel()
	_ = img.Close(last)
}
