package qcow2

import (
	"context"
	"math/bits"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/layout"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/opts"
)

// amendOptions declares what Amend accepts.
type amendOptions struct {
	BackingFile   *string `opt:"backing_file" help:"File name of a base image"`
	BackingFormat *string `opt:"backing_fmt" help:"Image format of the base image"`
	Compat        *string `opt:"compat" help:"Compatibility level (v2 [0.10] or v3 [1.1])"`
	DataFile      *string `opt:"data_file" help:"File name of an external data file"`
	DataFileRaw   *bool   `opt:"data_file_raw" help:"The external data file must stay valid as a raw image"`
	IterTime      *int64  `opt:"encrypt.iter-time" help:"Time to spend in PBKDF in milliseconds"`
	Keyslot       *int64  `opt:"encrypt.keyslot" help:"Select a single keyslot to modify explicitly"`
	NewSecret     *string `opt:"encrypt.new-secret" help:"New secret to set in the matching keyslots. Empty string to erase"`
	OldSecret     *string `opt:"encrypt.old-secret" help:"Select all keyslots that match this password"`
	State         *string `opt:"encrypt.state" help:"Select new state of affected keyslots (active/inactive)"`
	LazyRefcounts *bool   `opt:"lazy_refcounts" help:"Postpone refcount updates"`
	RefcountBits  *int64  `opt:"refcount_bits" help:"Width of a reference count entry in bits"`
	Size          *int64  `opt:"size" type:"size" help:"Virtual disk size"`
}

var amendSchema = opts.SchemaOf(amendOptions{})

// amendment is what remains of the options once they are checked.
type amendment struct {
	amendOptions
	version uint32
	order   uint32
}

// Amend changes features in the order of QEMU: what version 3 is needed
// for comes after the upgrade and before a downgrade. Each step is durable before
// the next.
func (im *image) Amend(ctx context.Context, req *driver.AmendRequest) error {
	if !im.writable {
		return driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	a := amendment{version: im.version, order: im.refOrder}
	if err := amendSchema.Decode(req.Options, &a.amendOptions); err != nil {
		return err
	}
	if err := im.checkAmend(&a); err != nil {
		return err
	}
	if a.version > im.version {
		if err := im.upgrade(ctx); err != nil {
			return err
		}
	}
	if err := im.amendKeys(ctx, &a, req.Force); err != nil {
		return err
	}
	if a.order != im.refOrder {
		if a.version < 3 && a.order != 4 {
			return invalid("refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)")
		}
		if err := im.amendRefcounts(ctx, a.order, req.Progress); err != nil {
			return err
		}
	}
	if err := im.amendDataFile(ctx, &a); err != nil {
		return err
	}
	if a.BackingFile != nil || a.BackingFormat != nil {
		if text(a.BackingFile) != im.backing || text(a.BackingFormat) != im.backingFormat {
			return invalid("the backing file cannot be amended: rebase the image")
		}
	}
	if a.LazyRefcounts != nil {
		if err := im.amendLazy(ctx, *a.LazyRefcounts, a.version); err != nil {
			return err
		}
	}
	if a.Size != nil && *a.Size != 0 {
		if err := req.Resize(ctx, *a.Size); err != nil {
			return err
		}
	}
	if a.version < im.version {
		return im.downgrade(ctx, req.Progress)
	}
	return nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// checkAmend refuses what cannot be, before anything is changed.
func (im *image) checkAmend(a *amendment) error {
	if err := im.checkAmendKeys(a); err != nil {
		return err
	}
	if a.Compat == nil {
		compat := "1.1"
		if im.version < 3 {
			compat = "0.10"
		}
		a.Compat = &compat
	}
	switch *a.Compat {
	case "0.10", "v2":
		a.version = 2
	case "1.1", "v3":
		a.version = 3
	default:
		return invalid("unknown compatibility level %s", *a.Compat)
	}
	if a.DataFile != nil && !im.external {
		return invalid("data-file can only be set for images that use an external data file")
	}
	if a.DataFileRaw != nil && *a.DataFileRaw && !im.dataRaw {
		return invalid("data-file-raw cannot be set on existing images")
	}
	if n := a.RefcountBits; n != nil {
		if *n <= 0 || *n > ondisk.MaxRefcountBits || *n&(*n-1) != 0 {
			return invalid("refcount width must be a power of two and may not exceed 64 bits")
		}
		a.order = uint32(bits.TrailingZeros64(uint64(*n)))
	}
	return nil
}

// rewriteHeader changes the header and what follows from it. Nothing is waiting
// to be written when edit is called.
func (im *image) rewriteHeader(ctx context.Context, edit func(h *ondisk.Header)) error {
	im.flushMu.Lock()
	defer im.flushMu.Unlock()
	if err := im.writebackAll(ctx); err != nil {
		return err
	}
	im.hdrMu.Lock()
	hdr, exts := im.hdr, im.exts
	edit(&im.hdr)
	err := im.writeHeader(ctx)
	if err != nil {
		im.hdr, im.exts = hdr, exts
	}
	im.hdrMu.Unlock()
	if err != nil {
		return driver.Errorf(nil, "failed to update the image header: %w", err)
	}
	if err := im.invalidate(ctx); err != nil {
		im.refused.Store(true)
		return err
	}
	return nil
}

// withoutExtension returns the header extensions but those of a type. hdrMu is
// held.
func (im *image) withoutExtension(typ uint32) []ondisk.Extension {
	return slices.DeleteFunc(slices.Clone(im.exts), func(e ondisk.Extension) bool { return e.Type == typ })
}

func (im *image) upgrade(ctx context.Context) error {
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	if err := im.completeSnapshots(ctx); err != nil {
		return driver.Errorf(nil, "failed to update the snapshot table: %w", err)
	}
	return im.rewriteHeader(ctx, func(h *ondisk.Header) {
		h.Version, h.RefcountOrder = 3, 4
		im.exts = append(im.withoutExtension(ondisk.ExtFeatureNames),
			ondisk.Extension{Type: ondisk.ExtFeatureNames, Data: ondisk.AppendFeatureNames(nil, layout.FeatureNames)})
	})
}

func (im *image) amendRefcounts(ctx context.Context, order uint32, progress func(done, total int64)) error {
	im.resizeMu.Lock()
	defer im.resizeMu.Unlock()
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	return im.setRefcountOrder(ctx, order, progress)
}

// amendDataFile records another name of the data file, and that it no longer has
// to read the same by itself.
func (im *image) amendDataFile(ctx context.Context, a *amendment) error {
	notRaw := a.DataFileRaw != nil && !*a.DataFileRaw && im.dataRaw
	if a.DataFile == nil && !notRaw {
		return nil
	}
	err := im.rewriteHeader(ctx, func(h *ondisk.Header) {
		if notRaw {
			h.Autoclear &^= ondisk.AutoclearDataFileRaw
		}
		if a.DataFile == nil {
			return
		}
		im.exts = im.withoutExtension(ondisk.ExtDataFile)
		if *a.DataFile != "" {
			im.exts = append([]ondisk.Extension{{Type: ondisk.ExtDataFile, Data: []byte(*a.DataFile)}}, im.exts...)
		}
	})
	if err == nil && notRaw {
		im.dataRaw = false
	}
	return err
}

func (im *image) amendLazy(ctx context.Context, lazy bool, version uint32) error {
	if lazy == (im.hdr.Compatible&ondisk.CompatLazyRefcounts != 0) {
		return nil
	}
	if lazy && version < 3 {
		return invalid("lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)")
	}
	if !lazy {
		if err := im.markClean(ctx); err != nil {
			return err
		}
	}
	// What is open goes on as it is: with lazy refcounts from the next time on.
	return im.rewriteHeader(ctx, func(h *ondisk.Header) {
		h.Compatible &^= ondisk.CompatLazyRefcounts
		if lazy {
			h.Compatible |= ondisk.CompatLazyRefcounts
		}
	})
}

// markClean writes all refcounts and ends their being postponed.
func (im *image) markClean(ctx context.Context) error {
	im.flushMu.Lock()
	err := im.writebackAll(ctx)
	im.flushMu.Unlock()
	if err != nil {
		return err
	}
	im.lazy = false
	return im.setIncompatible(ctx, 0, ondisk.IncompatDirty)
}
