package qemunbd

import (
	"context"
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/imageopt"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/opts"
)

// source says what block.Open opens.
func (s *settings) source(name string) (block.Source, error) {
	src := block.Source{Filename: name, Format: s.format, Options: opts.Dict{}}
	if s.imageOpts {
		src.Filename = ""
		if err := src.Options.ParseList(name, "file"); err != nil {
			return src, err
		}
	}
	return src, nil
}

func (p *Program) openOptions(s *settings) block.OpenOptions {
	// Clients count on the size that they are told.
	return block.OpenOptions{Write: !s.readOnly, Sharing: block.Sharing{FixedSize: true}, Unmap: s.discard == "unmap", Cache: s.cache, Gate: driver.AllowAll, Objects: &s.objects,
		Messages: block.Messages{Warn: func(m string) { p.warnf("%s", m) }, Words: words.Text, ProbedRaw: func(name string) { fmt.Fprint(p.Stderr, imageopt.ProbedRaw(name)) }}}
}

// open opens the image that is to be served.
func (p *Program) open(ctx context.Context, s *settings, name string) (*block.Image, error) {
	src, err := s.source(name)
	if err != nil {
		return nil, err
	}
	if src.Filename == "" && len(src.Options) == 0 {
		return nil, openError(name, errors.New("The 'file' block driver requires a file name"))
	}
	reg := p.registry()
	if s.snapshot {
		return p.openOverlay(ctx, reg, s, name, src)
	}
	if s.detect != "off" {
		src.Options["detect-zeroes"] = s.detect
	}
	o := p.openOptions(s)
	found := render.NewFindings(p.Stderr)
	o.Messages.Report = found.Report
	img, err := block.Open(ctx, reg, src, o)
	found.End()
	if err != nil {
		return nil, openError(name, err)
	}
	if err := s.load.Load(ctx, img); err != nil {
		return nil, errors.Join(err, img.Close(ctx))
	}
	return img, nil
}

// openError names an image as QEMU does.
func openError(name string, err error) error {
	var top *block.OpenError
	if errors.As(err, &top) && error(top) == err {
		err = top.Err
	}
	return fmt.Errorf("Failed to blk_new_open '%s': %w", driver.HidePassword(name), err)
}

// openOverlay opens a temporary qcow2 image that is backed by the one given. It has
// no name any more when it is open, and vanishes with the process.
func (p *Program) openOverlay(ctx context.Context, reg *block.Registry, s *settings, name string, src block.Source) (*block.Image, error) {
	o := p.openOptions(s)
	o.Write = false
	o.Messages.ProbedRaw = nil
	base, err := block.Open(ctx, reg, src, o)
	if err != nil {
		return nil, openError(name, err)
	}
	if err := s.load.Load(ctx, base); err != nil {
		return nil, errors.Join(err, base.Close(ctx))
	}
	if s.load.Given() {
		// What is read-only needs no overlay.
		return base, nil
	}
	size, format, file := base.Size(), base.Format(), base.Filename()
	if err := base.Close(ctx); err != nil {
		return nil, openError(name, err)
	}
	over := imageopt.Base{Size: size, Format: format, Filename: file}
	if s.imageOpts {
		over.Options = src.Options
	}
	extra := opts.Dict{}
	if s.detect != "off" {
		extra["detect-zeroes"] = s.detect
	}
	img, err := imageopt.Temporary(ctx, reg, over, extra, p.openOptions(s))
	var opening *imageopt.OpeningError
	if errors.As(err, &opening) {
		err = openError(name, opening.Err)
	}
	return img, err
}
