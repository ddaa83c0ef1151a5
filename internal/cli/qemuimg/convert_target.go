package qemuimg

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
)

// targetPlan says how to get the target.
type targetPlan struct {
	format  string
	options opts.Dict // of the new image
	size    int64
	backing bool // it has a backing file
}

// plan finds out what target to make, and refuses what cannot be.
func (cv *conversion) plan(sources int, size int64) (*targetPlan, error) {
	p := &targetPlan{format: cv.outFormat(), size: size, backing: cv.backing != nil}
	var drv driver.Driver
	if !cv.noCreate {
		schema, err := ops.CreateSchema(cv.reg, p.format, cv.target)
		if err != nil {
			return nil, err
		}
		drv = cv.reg.Lookup(p.format)
		if err := cv.planOptions(p, schema); err != nil {
			return nil, err
		}
	}
	switch {
	case cv.targetIsZero && p.backing:
		return nil, errors.New("Cannot use --target-is-zero when the destination image has a backing file")
	case sources > 1 && p.backing:
		return nil, errors.New("Having a backing file for the target makes no sense when concatenating multiple input images")
	case p.backing && !cv.noCreate && p.options.String("backing_fmt") == "":
		return nil, errors.New("Use of backing file requires explicit backing format")
	case cv.compress && !cv.noCreate:
		return p, checkCompress(drv, p.options)
	}
	return p, nil
}

func (cv *conversion) planOptions(p *targetPlan, schema *opts.Schema) error {
	var err error
	if p.options, err = cv.list.dict(); err != nil {
		return err
	}
	if err := schema.Check(p.options); err != nil {
		return err
	}
	// The size is that of the source, whatever -o says.
	delete(p.options, "size")
	if cv.backing != nil {
		if schema.Lookup("backing_file") == nil {
			return fmt.Errorf("Backing file not supported for file format '%s'", p.format)
		}
		p.options["backing_file"] = *cv.backing
	}
	if cv.backFm != nil {
		if schema.Lookup("backing_fmt") == nil {
			return fmt.Errorf("Backing file format not supported for file format '%s'", p.format)
		}
		p.options["backing_fmt"] = *cv.backFm
	}
	p.backing = p.options.String("backing_file") != ""
	return nil
}

var (
	errNoCompression       = errors.New("Compression not supported for this file format")
	errCompressedEncrypted = errors.New("Compression and encryption not supported at the same time")
)

// cannotCompress says why an open image takes no compressed clusters.
func cannotCompress(ctx context.Context, img *block.Image) error {
	if info, err := img.Info(ctx); err == nil && info.Encrypted && !img.Driver().Desc().NoCompression {
		return errCompressedEncrypted
	}
	return errNoCompression
}

// checkCompress refuses options that do not go with compression.
func checkCompress(drv driver.Driver, d opts.Dict) error {
	encrypted, _ := opts.ParseBool(d.String("encryption"))
	switch {
	case drv.Desc().PassesThrough() == "file" || drv.Desc().NoCompression || drv.Desc().Kind == driver.KindProtocol:
		return errNoCompression
	case encrypted || d.String("encrypt.format") != "":
		return errCompressedEncrypted
	case d.String("preallocation") != "" && d.String("preallocation") != string(driver.PreallocOff):
		return errors.New("Compression and preallocation not supported at the same time")
	}
	return nil
}

// keys are the options that open the image once it is made: those that name the
// secrets it is made with.
func (p *targetPlan) keys() opts.Dict {
	var keys opts.Dict
	for name, v := range p.options {
		if strings.HasSuffix(name, "key-secret") {
			if keys == nil {
				keys = opts.Dict{}
			}
			keys[name] = v
		}
	}
	return keys
}

// openTarget makes the target if it is to be made, and opens it.
func (cv *conversion) openTarget(p *targetPlan, cache driver.Cache) (*block.Image, error) {
	if !cv.noCreate {
		if err := cv.create(p, cache); err != nil {
			return nil, err
		}
	}
	return cv.open(image{name: cv.target, format: p.format, imageOpts: cv.targetImageOpts, options: p.keys()},
		block.OpenOptions{Write: true, Sequential: true, Unmap: cv.sparse > 0, Cache: cache})
}

// untouched marks errors that came before anything was written to the target.
type untouched struct{ error }

func (e *untouched) Unwrap() error { return e.error }

// incomplete words an error of copying, and says what became of the target.
func (cv *conversion) incomplete(err error) error {
	var early *untouched
	if errors.As(err, &early) {
		return err
	}
	text := render.Error(err)
	var io *block.IOError
	if errors.As(err, &io) && !errors.Is(err, context.Canceled) {
		switch {
		case io.Op == "map":
			text = fmt.Sprintf("error while reading block status at offset %d: %s", io.Offset, render.System(io.Err))
		case io.Offset >= 0 && io.Op == "read":
			text = fmt.Sprintf("error while reading at byte %d: %s", io.Offset, render.System(io.Err))
		case io.Offset >= 0:
			text = fmt.Sprintf("error while writing at byte %d: %s", io.Offset, render.System(io.Err))
		}
	}
	return &twoErrors{First: errors.New(text), Second: fmt.Errorf("the target '%s' is incomplete", cv.target)}
}

// openGrowing makes a target whose size is not known yet.
func (cv *conversion) openGrowing(p *targetPlan, cache driver.Cache) (*block.Image, error) {
	if d := p.options.String("preallocation"); d != "" && d != string(driver.PreallocOff) {
		return nil, errors.New("The standard input ('-') cannot be combined with preallocation")
	}
	if err := cv.create(p, cache); err != nil {
		return nil, err
	}
	return cv.open(image{name: cv.target, format: p.format, options: p.keys()}, block.OpenOptions{Write: true, Sequential: true, Resize: true, Unmap: true, Cache: cache})
}

// create makes the target. It need not be durable before what is copied is: the
// cache mode of the copy decides.
func (cv *conversion) create(p *targetPlan, cache driver.Cache) error {
	err := block.Create(cv.ctx, cv.reg, block.CreateRequest{Filename: cv.target, Format: p.format, Size: p.size,
		Options: p.options, Cache: cache, Gate: driver.AllowAll, Objects: &cv.objects, Warn: func(m string) { cv.warnf("%s", m) }})
	if err != nil {
		return fmt.Errorf("%s: error while converting %s: %w", cv.target, p.format, createError(err))
	}
	return nil
}
