package qemuimg

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/ops"
)

// rebasing is one run of rebase.
type rebasing struct {
	*call
	job         ops.RebaseJob
	backing     *string
	format      *string
	sourceCache string
}

func rebaseCommand(c *call) *program.Command {
	r := &rebasing{call: c, sourceCache: cacheWriteback}
	return &program.Command{
		Name: "rebase", Summary: "Change backing file of the image",
		Usage: []string{"[-f FMT | --image-opts] [-t CACHE] [-q] [-U] [-p]",
			"[-b BACKING_FILENAME [-F BACKING_FMT] [-T BACKING_CACHE]] [-u]",
			"[--object OBJDEF] [-c] FILENAME"},
		About: "Lets FILENAME rest on BACKING_FILENAME. What differs between the old and the new\nbacking file is copied into FILENAME first, so that its content stays the same.",
		Options: []program.Option{c.helpOption(), c.quietOption(), c.progressOption(), c.formatOption(), c.imageOptsOption(),
			c.cacheOption("-t, --cache CACHE", "the cache mode for FILENAME (default: writeback)"),
			program.Given(&r.backing, `-b, --backing BACKING_FILENAME|""`, "the new backing file, \"\" for none; relative names are looked up in the\ndirectory of FILENAME"),
			program.Given(&r.format, "-F, --backing-format BACKING_FMT", "the format of BACKING_FILENAME, which must be given; -B means the same").Also("-B").Offering(c.formats()...),
			program.Text(&r.sourceCache, "-T, --backing-cache CACHE", "the cache mode for BACKING_FILENAME (default: writeback)").Offering(cacheModes...),
			program.Flag(&r.job.Unsafe, "-u, --backing-unsafe", "change the name only: for a backing file that was renamed or whose content is\nthe same. Nothing is read, and the backing file need not exist"),
			program.Flag(&r.job.Compress, "-c, --compress", "write compressed clusters, where the format has them"),
			c.forceShareOption(), c.objectOption(),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image to change"}},
		Examples: []string{"-b new.qcow2 -F qcow2 overlay.qcow2", "-b '' overlay.qcow2", "-u -b moved/base.raw -F raw overlay.qcow2"},
		Run: func(context.Context, []string) int {
			switch {
			case len(c.operands) != 1:
				return c.usage("Expecting one image file name")
			case !r.job.Unsafe && r.backing == nil:
				return c.usage("Must specify backing file (-b) or use unsafe mode (-u)")
			}
			if err := r.run(); err != nil {
				return c.fail(err)
			}
			return 0
		},
	}
}

func (r *rebasing) run() (err error) {
	progress, stop := r.startProgress(1)
	defer func() { stop(err != nil) }()
	r.job.Progress = progress.Report
	cache, ok := cacheMode(r.cache)
	if !ok {
		return fmt.Errorf("Invalid cache option: %s", r.cache)
	}
	source, ok := cacheMode(r.sourceCache)
	if !ok {
		return fmt.Errorf("Invalid source cache option: %s", r.sourceCache)
	}
	img, err := r.open(r.image(r.operands[0]), block.OpenOptions{Write: true, Cache: cache, Chain: block.ChainUse{NoBacking: r.job.Unsafe}})
	if err != nil {
		return err
	}
	r.job.Image = img
	err = r.rebase(source)
	if e := r.close(img); err == nil {
		err = e
	}
	return err
}

// rebase does the work, once the image is open.
func (r *rebasing) rebase(cache driver.Cache) error {
	if r.job.Compress && !r.job.Image.CanCompress() {
		return ops.CompressionError(r.ctx, r.job.Image)
	}
	if r.format != nil && r.reg.Lookup(*r.format) == nil {
		return fmt.Errorf("Invalid format name: '%s'", *r.format)
	}
	if r.job.Image.Format() == "parallels" && !r.cowl() {
		return errors.New("could not get block driver info") // QEMU asks for it before it finds out that there are no backing files
	}
	if r.backing != nil && *r.backing != "" {
		r.job.Backing.Filename = *r.backing
		if r.format != nil {
			r.job.Backing.Format = *r.format
		}
	}
	if !r.job.Unsafe && r.job.Backing.Filename != "" {
		opened, err := r.openNew(cache)
		if err != nil {
			return err
		}
		if opened != nil {
			defer r.close(opened)
		}
	}
	if r.job.Backing.Filename != "" && r.job.Backing.Format == "" {
		// Known before anything is copied.
		return fmt.Errorf("Could not change the backing file to '%s': backing format must be specified", r.job.Backing.Filename)
	}
	return r.reworded(ops.Rebase(r.ctx, r.job))
}

// openNew finds the new backing file in the chain, or opens it. An image that it
// opened is returned; the caller closes it.
func (r *rebasing) openNew(cache driver.Cache) (*block.Image, error) {
	img, name := r.job.Image, r.job.Backing.Filename
	overlay := r.operands[0]
	if f := img.Tree().File(); f != nil {
		overlay = f.Filename()
	}
	full := block.CombinePath(overlay, name)
	in, err := img.Tree().FindBacking(r.ctx, full)
	if err != nil {
		return nil, err
	}
	if in != nil {
		r.job.New = in
		return nil, nil
	}
	src := block.Source{Filename: full, Format: r.job.Backing.Format}
	opened, err := r.openSource(r.ctx, src, full, block.OpenOptions{Sharing: block.Sharing{Force: r.forceShare}, Cache: cache})
	if err != nil {
		return nil, fmt.Errorf("Could not open new backing file '%s': %w", driver.HidePassword(name), errors.Unwrap(err))
	}
	r.job.New = opened
	return opened, nil
}

// reworded returns an error of rebasing in the words of QEMU.
func (r *rebasing) reworded(err error) error {
	if err == nil || r.ctx.Err() != nil {
		return err
	}
	var io *block.IOError
	errors.As(err, &io)
	var change *ops.BackingChangeError
	if errors.As(err, &change) {
		if io != nil {
			err = io.Err
		}
		if errors.Is(err, driver.ErrRange) {
			return fmt.Errorf("Could not change the backing file to '%s': No space left in the file header", change.Backing.Filename)
		}
		if errors.Is(err, driver.ErrInvalid) {
			err = syscall.EINVAL
		}
		return fmt.Errorf("Could not change the backing file to '%s': %s", change.Backing.Filename, words.System(err))
	}
	if io == nil {
		return err
	}
	switch {
	case io.Op == "map" && io.Image == r.job.Image.Filename():
		return fmt.Errorf("error while reading image metadata: %s", words.System(io.Err))
	case io.Op == "map":
		return fmt.Errorf("error while reading base image metadata: %s", words.System(io.Err))
	case io.Op == "read" && r.job.New != nil && io.Image == r.job.New.Filename():
		return errors.New("error while reading from new backing file")
	case io.Op == "read":
		return errors.New("error while reading from old backing file")
	}
	return fmt.Errorf("Error while writing to COW image: %s", words.System(io.Err))
}
