package block

import (
	"context"
	"errors"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// CreateRequest says what image to create.
type CreateRequest struct {
	Filename string
	Format   string
	Size     int64
	// Options of the format and of the protocol that the file name selects.
	Options opts.Dict
	Cache   driver.Cache
	Gate    driver.Gate
	Objects driver.Objects // secrets and TLS credentials by id, or nil
	Budget  *driver.Budget
	Warn    func(string)
}

// FindProtocol returns the driver that the file name selects.
func (r *Registry) FindProtocol(filename string) (driver.Driver, error) {
	d, _, err := r.protocolFor(filename)
	return d, err
}

// Create makes an image, replacing what the file name names. If it fails after
// the file was made, the file is removed again where the protocol can.
func Create(ctx context.Context, reg *Registry, req CreateRequest) error {
	drv := reg.Lookup(req.Format)
	if drv == nil {
		return driver.Errorf(driver.ErrInvalid, "Unknown file format '%s'", req.Format)
	}
	creator, ok := drv.(driver.Creator)
	if !ok || drv.Desc().CreateOptions == nil {
		return driver.Errorf(driver.ErrUnsupported, "Format driver '%s' does not support image creation", req.Format)
	}
	env := &driver.Env{Gate: req.Gate, Budget: req.Budget, Warn: req.Warn, Objects: req.Objects}
	if env.Warn == nil {
		env.Warn = func(string) {}
	}
	if env.Budget == nil {
		env.Budget = &driver.Budget{}
	}
	if drv.Desc().Kind == driver.KindProtocol {
		_, rest, err := reg.creating(req.Filename)
		if err != nil {
			return err
		}
		return creator.Create(ctx, &driver.CreateRequest{Filename: rest, Size: req.Size, Options: req.Options, Env: env})
	}
	proto, rest, err := reg.creating(req.Filename)
	if err != nil {
		return err
	}
	protoCreator, ok := proto.(driver.Creator)
	if !ok {
		return driver.Errorf(driver.ErrUnsupported, "Protocol driver '%s' does not support creating images, so an existing image must be selected as the target",
			proto.Desc().Name)
	}
	own, forProto, err := splitOptions(req.Options, drv.Desc(), proto.Desc())
	if err != nil {
		return err
	}
	filtered := drv.Desc().PassesThrough() == "file"
	size := int64(0)
	if filtered {
		size = (req.Size + 511) &^ 511
	}
	if err := protoCreator.Create(ctx, &driver.CreateRequest{Filename: rest, Size: size, Options: forProto, Env: env}); err != nil {
		return err
	}
	if filtered {
		// The protocol made all there is.
		return nil
	}
	if err := createFormat(ctx, reg, req, creator, own, env); err != nil {
		if del, ok := proto.(driver.Deleter); ok {
			_ = del.Delete(context.WithoutCancel(ctx), rest)
		}
		return err
	}
	return nil
}

// creating returns the protocol driver of a file name, and the name as its Create
// and Delete take it: whole where the driver reads names itself.
func (r *Registry) creating(filename string) (driver.Driver, string, error) {
	p, rest, err := r.protocolFor(filename)
	if _, ok := p.(driver.FilenameParser); ok {
		rest = filename
	}
	return p, rest, err
}

func createFormat(ctx context.Context, reg *Registry, req CreateRequest, creator driver.Creator, own opts.Dict, env *driver.Env) (err error) {
	file, err := openProtocolFile(ctx, reg, req, req.Filename)
	if err != nil {
		return err
	}
	defer func() {
		if e := file.Close(context.WithoutCancel(ctx)); err == nil {
			err = e
		}
	}()
	child := func(ctx context.Context, filename string, size int64) (driver.Storage, error) {
		filename = CombinePath(req.Filename, filename)
		p, rest, err := reg.creating(filename)
		if err != nil {
			return nil, err
		}
		c, ok := p.(driver.Creator)
		if !ok {
			return nil, driver.Errorf(driver.ErrUnsupported, "Protocol driver '%s' does not support creating images", p.Desc().Name)
		}
		if err := c.Create(ctx, &driver.CreateRequest{Filename: rest, Size: size, Options: opts.Dict{}, Env: env}); err != nil {
			return nil, err
		}
		return openProtocolFile(ctx, reg, req, filename)
	}
	return creator.Create(ctx, &driver.CreateRequest{Filename: req.Filename, Size: req.Size, Options: own, File: file, Env: env, CreateChild: child})
}

// openProtocolFile opens a file that was just created, for laying out an image.
func openProtocolFile(ctx context.Context, reg *Registry, req CreateRequest, filename string) (*Image, error) {
	gate := req.Gate
	if gate == nil {
		gate = driver.DenyAll
	}
	proto, _, err := reg.protocolFor(filename)
	if err != nil {
		return nil, err
	}
	return Open(ctx, reg, Source{Filename: filename, Format: proto.Desc().Name},
		OpenOptions{Write: true, Resize: true, Unmap: true, Cache: req.Cache, Gate: gate, Objects: req.Objects, Budget: req.Budget, Warn: req.Warn})
}

// splitOptions gives each option to the driver that declares it, the format
// first; a format that only passes its file through leaves all to the protocol.
func splitOptions(d opts.Dict, format, proto *driver.Desc) (own, forProto opts.Dict, err error) {
	own, forProto = opts.Dict{}, opts.Dict{}
	filtered := format.PassesThrough() == "file"
	for k, v := range d {
		inFormat := format.CreateOptions.Lookup(k) != nil
		inProto := proto.CreateOptions.Lookup(k) != nil
		switch {
		case k == "size":
			// Given apart.
		case inProto && (filtered || !inFormat):
			forProto[k] = v
		case inFormat:
			own[k] = v
		default:
			return nil, nil, &opts.UnknownError{Name: k}
		}
	}
	return own, forProto, nil
}

// Remove deletes what a file name names, if its protocol can.
func (r *Registry) Remove(ctx context.Context, filename string) error {
	p, rest, err := r.protocolFor(strings.TrimSpace(filename))
	if err != nil {
		return err
	}
	del, ok := p.(driver.Deleter)
	if !ok {
		return errors.ErrUnsupported
	}
	return del.Delete(ctx, rest)
}
