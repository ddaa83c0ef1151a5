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

// OpenOptions say how to open an image.
type OpenOptions struct {
	Write      bool
	Resize     bool // the size will change: ask others not to count on it
	Cache      driver.Cache
	Exclusive  bool // no other process may write or resize the image meanwhile
	FixedSize  bool // no other process may resize it
	ForceShare bool // -U: do not take image locks
	Unmap      bool // let discard requests through
	NoBacking  bool
	NoIO       bool // only metadata will be read
	Check      bool // for check and repair: open leniently
	Sequential bool // the disk will be read or written once, in order: small caches suffice
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
	// Report takes lines about what opening repairs in the image, one goroutine's at
	// a time; they may be very many. Nil drops them.
	Report func(line string)
	// Words puts an error into the words in which Warn and Report tell of it. Nil: its text.
	Words func(err error) string
	// ProbedRaw is called when no format was given and an image that is to be
	// written was taken for raw.
	ProbedRaw func(name string)
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
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if o.Report == nil {
		o.Report = func(string) {}
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
	_ = img.Close(context.WithoutCancel(ctx))
}
