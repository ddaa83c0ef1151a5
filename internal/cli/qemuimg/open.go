package qemuimg

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/imageopt"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/opts"
)

// image says what image to open.
type image struct {
	name      string
	format    string
	imageOpts bool
	options   opts.Dict // further ones
}

// image returns the image that an operand names, with -f and --image-opts.
func (c *call) image(name string) image {
	return image{name: name, format: c.format, imageOpts: c.imageOpts}
}

// errFormatAndOpts is said where an image is given by options and a format.
var errFormatAndOpts = errors.New("--image-opts and --format are mutually exclusive")

// source turns an image into what the block layer opens.
func (im image) source() (block.Source, error) {
	src := block.Source{Filename: im.name, Format: im.format, Options: im.options.Clone()}
	if !im.imageOpts {
		return src, nil
	}
	if src.Options == nil {
		src.Options = opts.Dict{}
	}
	src.Filename = ""
	return src, src.Options.ParseList(im.name, "file")
}

// open opens an image. The error reads as users know it.
func (c *call) open(im image, o block.OpenOptions) (*block.Image, error) {
	if im.imageOpts && im.format != "" {
		return nil, errFormatAndOpts
	}
	src, err := im.source()
	if err != nil {
		return nil, openError(im.name, err)
	}
	return c.openSource(c.ctx, src, im.name, o)
}

// openError names an image as the user did.
func openError(name string, err error) error {
	var top *block.OpenError
	if errors.As(err, &top) && top == err {
		err = top.Err
	}
	return fmt.Errorf("Could not open '%s': %w", driver.HidePassword(name), err)
}

func (c *call) openSource(ctx context.Context, src block.Source, name string, o block.OpenOptions) (*block.Image, error) {
	if archive, disk, ok := splitOVA(src.Filename); ok && c.cowl() && !o.Write {
		var err error
		if src, err = c.inOVA(src, archive, disk); err != nil {
			return nil, err
		}
	}
	return c.openPlain(ctx, src, name, o)
}

// openPlain is openSource for names that are none of disks in an appliance.
func (c *call) openPlain(ctx context.Context, src block.Source, name string, o block.OpenOptions) (*block.Image, error) {
	o.Gate = driver.AllowAll
	o.Objects = &c.objects
	o.Messages.Warn = func(msg string) { c.warnf("%s", msg) }
	o.Messages.Words = words.Text
	o.Messages.ProbedRaw = c.probedRaw
	if o.Write && o.Sharing.Force {
		return nil, openError(name, errors.New("force-share=on can only be used with read-only images"))
	}
	if src.Filename == "" && len(src.Options) == 0 {
		return nil, openError(name, errors.New("The 'file' block driver requires a file name"))
	}
	found := render.NewFindings(c.Stderr)
	o.Messages.Report = found.Report
	img, err := block.Open(ctx, c.reg, src, o)
	found.End()
	if err != nil {
		return nil, openError(name, err)
	}
	if o.Write && !imageopt.Local(img.Tree().Protocol().Format()) {
		c.changesServed()
	}
	return img, nil
}

// changesServed says that an image is changed that a server has: once it is interrupted, the command waits a moment
// at most for what is under way.
func (c *call) changesServed() {
	if c.over == nil {
		return
	}
	c.watch.Do(func() {
		imageopt.AfterInterruption(c.ctx, c.over, func() {
			c.errorf("Interrupted; no answer in time: what was made may remain")
			c.die(c.ctx)
		})
	})
}

// changesNew is changesServed where an image of a name is made, which may be on a server.
func (c *call) changesNew(name string) {
	if d, err := c.reg.FindProtocol(name); err == nil && d.Desc().Kind == driver.KindProtocol && !imageopt.Local(d.Desc().Name) {
		c.changesServed()
	}
}

// probedRaw warns of an image that is to be written without its format given.
func (c *call) probedRaw(name string) {
	fmt.Fprint(c.Stderr, imageopt.ProbedRaw(name))
}

// close closes an image that was written, and reports what could not be. What is on this machine is written to
// the end, though the command was interrupted.
func (c *call) close(img *block.Image) error {
	ctx := context.WithoutCancel(c.ctx)
	if imageopt.Served(img) {
		last, cancel := driver.Farewell(c.ctx, driver.ClosingTime)
		defer cancel()
		ctx = last
	}
	err := img.Close(ctx)
	if err == nil && ctx.Err() != nil {
		return c.ctx.Err() // it was cut short
	}
	return err
}

// optionList joins option lists that were given one by one.
type optionList struct{ parts []string }

func (l *optionList) add(list string) error {
	if !opts.ValidList(list) {
		return fmt.Errorf("Invalid option list: %s", list)
	}
	l.parts = append(l.parts, list)
	return nil
}

func (l *optionList) given() bool { return len(l.parts) > 0 }

func (l *optionList) text() string { return strings.Join(l.parts, ",") }

func (l *optionList) wantsHelp() bool { return opts.WantsHelp(l.text()) }

// dict reads the options.
func (l *optionList) dict() (opts.Dict, error) {
	d := opts.Dict{}
	return d, d.ParseList(l.text(), "")
}

// names returns the names of the options in the order in which they are given.
func (l *optionList) names() []string { return opts.ListKeys(l.text()) }
