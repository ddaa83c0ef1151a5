package block

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// CreateRequest says what image to create.
type CreateRequest struct {
	Filename string
	Format   string
	// Storage, if not nil, holds the image in place of a file called Filename, as in
	// Source. What it held is lost.
	Storage driver.Driver
	Size    int64
	// Options of the format and of the protocol that the file name selects.
	Options opts.Dict
	Cache   driver.Cache
	Gate    driver.Gate
	Objects driver.Objects // secrets and TLS credentials by id, or nil
	Budget  *driver.Budget
	Warn    func(string)
	Words   func(error) string // as in OpenOptions
	// Connections is as in OpenOptions; nil: some of the request's own.
	Connections *driver.Connections
}

// FindProtocol returns the driver that the file name selects.
func (r *Registry) FindProtocol(filename string) (driver.Driver, error) {
	d, _, err := r.protocolFor(filename)
	return d, err
}

// Create makes an image, replacing what the file name names. If it fails, the files
// that it made are removed again where the protocol can.
func Create(ctx context.Context, reg *Registry, req CreateRequest) error {
	_, err := Make(ctx, reg, req)
	return err
}

// Make is Create for callers that go on to fill the image, and remove it again if they
// fail. If Make itself fails it has undone what it did; a file that existed before and
// was overwritten is reported by a RemainsError.
func Make(ctx context.Context, reg *Registry, req CreateRequest) (*Creation, error) {
	drv := reg.Lookup(req.Format)
	if drv == nil {
		return nil, driver.Errorf(driver.ErrInvalid, "unknown file format '%s'", req.Format)
	}
	creator, ok := drv.(driver.Creator)
	if !ok || drv.Desc().CreateOptions == nil {
		return nil, driver.Errorf(driver.ErrUnsupported, "format driver '%s' does not support image creation", req.Format)
	}
	if req.Connections == nil {
		req.Connections = &driver.Connections{}
		defer req.Connections.Close()
	}
	env := &driver.Env{Gate: req.Gate, Budget: req.Budget, Warn: req.Warn, Words: req.Words, Report: func(string) {}, Objects: req.Objects, Connections: req.Connections}
	if env.Warn == nil {
		env.Warn = func(string) {}
	}
	if env.Budget == nil {
		env.Budget = &driver.Budget{}
	}
	c := &Creation{name: req.Filename, env: env}
	if req.Storage != nil {
		return c, c.onStorage(ctx, reg, req, drv)
	}
	if drv.Desc().Kind == driver.KindProtocol {
		_, rest, err := reg.creating(req.Filename)
		if err != nil {
			return nil, err
		}
		return c, c.object(ctx, drv, rest, req.Size, req.Options)
	}
	proto, rest, err := reg.creating(req.Filename)
	if err != nil {
		return nil, err
	}
	if _, ok := proto.(driver.Creator); !ok {
		return nil, driver.Errorf(driver.ErrUnsupported, "protocol driver '%s' does not support creating images, so an existing image must be selected as the target",
			proto.Desc().Name)
	}
	own, forProto, err := splitOptions(req.Options, drv.Desc(), proto.Desc())
	if err != nil {
		return nil, err
	}
	filtered := drv.Desc().PassesThrough() == "file"
	size := int64(0)
	if filtered {
		size = (req.Size + 511) &^ 511
	} else if err := checkRoom(ctx, reg, req, drv, own); err != nil {
		return nil, err
	}
	if err := c.object(ctx, proto, rest, size, forProto); err != nil || filtered {
		// A pass-through format adds nothing to its file.
		return c, err
	}
	if err := c.format(ctx, reg, req, creator, own); err != nil {
		remains := c.Undo(ctx)
		var errno syscall.Errno
		if remains != nil && (errors.As(err, &errno) || ctx.Err() != nil) {
			err = &RemainsError{Err: err, Remains: remains}
		}
		return nil, err
	}
	return c, nil
}

// RemainsError says that an incomplete file remains.
type RemainsError struct {
	Err     error
	Remains error // which, and why
}

func (e *RemainsError) Error() string { return driver.Text(e) }
func (e *RemainsError) Unwrap() error { return e.Err }

// Template implements driver.Message.
func (e *RemainsError) Template() (string, []any) { return "%v; %v", []any{e.Err, e.Remains} }

// Creation is what a call of Make made.
type Creation struct {
	name    string
	env     *driver.Env
	existed bool // something of that name was replaced
	made    []madeObject
}

type madeObject struct {
	del  driver.Deleter
	name string
}

// Undo removes what was made; it must not be open. An error says what remains, and
// why: what existed before is not removed.
func (c *Creation) Undo(ctx context.Context) error {
	ctx, cancel := driver.Farewell(ctx, driver.UndoingTime)
	defer cancel()
	var failed error
	for _, m := range c.made {
		err := m.del.Delete(ctx, m.name)
		if err != nil && ctx.Err() != nil {
			err = noAnswer(ctx)
		}
		if err != nil && failed == nil {
			failed = notRemoved(m.name, err)
		}
	}
	c.made = nil
	if failed == nil && c.existed {
		failed = fmt.Errorf("'%s' existed before and is incomplete now", c.name)
	}
	return failed
}

// notRemoved says that an incomplete object remains, and why, if err is not nil.
func notRemoved(name string, err error) error {
	if err == nil {
		return fmt.Errorf("'%s' is incomplete and could not be removed", name)
	}
	return fmt.Errorf("'%s' is incomplete and could not be removed: %w", name, err)
}

// noAnswer is why nothing could be removed, if ctx has ended: that the work was cancelled is known.
func noAnswer(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return driver.Errorf(driver.ErrTimeout, "no answer in time")
}

// object makes one object through its protocol.
func (c *Creation) object(ctx context.Context, drv driver.Driver, name string, size int64, options opts.Dict) error {
	creator, ok := drv.(driver.Creator)
	if !ok {
		return driver.Errorf(driver.ErrUnsupported, "protocol driver '%s' does not support creating images", drv.Desc().Name)
	}
	made := false
	if err := creator.Create(ctx, &driver.CreateRequest{Filename: name, Size: size, Options: options, Env: c.env, Made: &made}); err != nil {
		if made {
			return &RemainsError{Err: err, Remains: notRemoved(name, noAnswer(ctx))}
		}
		return err
	}
	if del, ok := drv.(driver.Deleter); ok && made {
		c.made = append(c.made, madeObject{del, name})
	} else {
		c.existed = true
	}
	return nil
}

// checkRoom refuses an image whose clusters are to be preallocated on a device that is
// too small, before anything is written there.
func checkRoom(ctx context.Context, reg *Registry, req CreateRequest, drv driver.Driver, own opts.Dict) error {
	m, ok := drv.(driver.Measurer)
	if mode := own.String("preallocation"); !ok || mode == "" || mode == string(driver.PreallocOff) {
		return nil
	}
	proto, _, err := reg.protocolFor(req.Filename)
	if err != nil {
		return err
	}
	file, err := Open(ctx, reg, Source{Filename: req.Filename, Format: proto.Desc().Name},
		OpenOptions{Gate: driver.DenyAll, Objects: req.Objects, Connections: req.Connections, Use: Use{NoIO: true}, Sharing: Sharing{Force: true}})
	if err != nil {
		return nil // there is none yet, or creating it tells why it cannot be opened
	}
	defer file.Close(ctx)
	if !file.Traits().FixedSize {
		return nil
	}
	need, err := m.Measure(ctx, &driver.MeasureRequest{Size: req.Size, Options: own, Objects: req.Objects})
	if err != nil {
		return nil // creating the image finds what is wrong
	}
	if need.Required > file.Size() {
		return driver.Errorf(driver.ErrNoSpace, "the image needs %d bytes, '%s' has %d: %w", need.Required, req.Filename, file.Size(), driver.ErrNoSpace)
	}
	return nil
}

// creating returns the protocol driver of a file name, and the name as its Create
// and Delete take it: with the scheme where the driver parses names itself.
func (r *Registry) creating(filename string) (driver.Driver, string, error) {
	p, rest, err := r.protocolFor(filename)
	if _, ok := p.(driver.FilenameParser); ok {
		rest = filename
	}
	return p, rest, err
}

// format lays the image out in the file that was made.
func (c *Creation) format(ctx context.Context, reg *Registry, req CreateRequest, creator driver.Creator, own opts.Dict) (err error) {
	file, err := openProtocolFile(ctx, reg, req, Source{Filename: req.Filename, Storage: req.Storage})
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := driver.Farewell(ctx, driver.ClosingTime)
		defer cancel()
		if e := file.Close(last); err == nil {
			err = e
		}
	}()
	child := func(ctx context.Context, filename string, size int64) (driver.Storage, error) {
		filename = CombinePath(req.Filename, filename)
		p, rest, err := reg.creating(filename)
		if err != nil {
			return nil, err
		}
		existed := c.existed
		if err := c.object(ctx, p, rest, size, opts.Dict{}); err != nil {
			return nil, err
		}
		if c.existed && !existed {
			c.name = filename
		}
		return openProtocolFile(ctx, reg, req, Source{Filename: filename})
	}
	open := func(ctx context.Context, filename string) (driver.Storage, error) {
		return openProtocolFile(ctx, reg, req, Source{Filename: CombinePath(req.Filename, filename)})
	}
	look := func(ctx context.Context, filename string) (driver.OpenedImage, func(), error) {
		filename = CombinePath(req.Filename, filename)
		img, err := Open(ctx, reg, Source{Filename: filename}, OpenOptions{Chain: ChainUse{NoBacking: true}, Use: Use{NoIO: true}, Gate: gateOf(req), Objects: req.Objects, Budget: req.Budget, Connections: req.Connections, Messages: Messages{Warn: req.Warn}})
		if err != nil {
			return driver.OpenedImage{}, nil, &OpenError{Path: filename, Role: "backing", Err: err}
		}
		return driver.OpenedImage{Node: img.skipFilters().node, Format: img.Format()}, func() { closeQuietly(ctx, img) }, nil
	}
	return creator.Create(ctx, &driver.CreateRequest{Filename: req.Filename, Size: req.Size, Options: own, File: file, Env: c.env, CreateChild: child, OpenChild: open, OpenImage: look})
}

// gateOf returns the gate of a request, which refuses all if there is none.
func gateOf(req CreateRequest) driver.Gate {
	if req.Gate == nil {
		return driver.DenyAll
	}
	return req.Gate
}

// openProtocolFile opens a file that was just created, or Storage, for laying out an
// image.
func openProtocolFile(ctx context.Context, reg *Registry, req CreateRequest, src Source) (*Image, error) {
	proto := src.Storage
	if proto == nil {
		var err error
		if proto, _, err = reg.protocolFor(src.Filename); err != nil {
			return nil, err
		}
	}
	src.Format = proto.Desc().Name
	return Open(ctx, reg, src,
		OpenOptions{Write: true, Sharing: Sharing{Resize: true}, Unmap: true, Cache: req.Cache, Gate: gateOf(req), Objects: req.Objects, Budget: req.Budget, Connections: req.Connections, Messages: Messages{Warn: req.Warn, Words: req.Words}})
}

// splitOptions gives each option to the driver that declares it, the format
// first; a pass-through format leaves all to the protocol.
func splitOptions(d opts.Dict, format, proto *driver.Desc) (own, forProto opts.Dict, err error) {
	own, forProto = opts.Dict{}, opts.Dict{}
	filtered := format.PassesThrough() == "file"
	for k, v := range d {
		inFormat := format.CreateOptions.Lookup(k) != nil
		inProto := proto.CreateOptions.Lookup(k) != nil
		switch {
		case k == "size":
			// CreateRequest has a field for it.
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
