package sheepdog

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/sheepdog"
)

var desc = driver.Desc{
	Name:          "sheepdog",
	Kind:          driver.KindProtocol,
	Schemes:       []string{"sheepdog", "sheepdog+tcp", "sheepdog+unix"},
	Summary:       "Virtual disks of Sheepdog clusters",
	OpenOptions:   openSchema,
	CreateOptions: createSchema,
}

// New returns the driver "sheepdog".
func New() driver.Driver { return sheepdogDriver{} }

type sheepdogDriver struct{}

var (
	_ driver.FilenameParser = sheepdogDriver{}
	_ driver.Creator        = sheepdogDriver{}
	_ driver.Deleter        = sheepdogDriver{}
)

// Desc implements driver.Driver.
func (sheepdogDriver) Desc() *driver.Desc { return &desc }

// ParseFilename implements driver.FilenameParser.
func (sheepdogDriver) ParseFilename(name string) (opts.Dict, error) { return parseName(name) }

// connect connects to the server.
func (o *openOptions) connect(ctx context.Context) (*sheepdog.Client, error) {
	at, err := o.Server.Endpoint()
	if err != nil {
		return nil, err
	}
	return sheepdog.Connect(ctx, sheepdog.Config{
		Dial: func(ctx context.Context) (net.Conn, error) {
			nc, err := at.Dial(ctx)
			if err != nil && ctx.Err() == nil {
				err = at.Error(err)
			}
			return nc, err
		},
		Timeout: time.Duration(o.Timeout) * time.Second, Reconnect: time.Duration(o.ReconnectDelay) * time.Second,
	})
}

// Open implements driver.Driver.
func (sheepdogDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	o, err := decode(req.Options)
	if err != nil {
		return nil, err
	}
	return open(ctx, o, req.Access)
}

func open(ctx context.Context, o *openOptions, access driver.Access) (*node, error) {
	c, err := o.connect(ctx)
	if err != nil {
		return nil, err
	}
	to := o.open()
	to.Lock = !access.NoLock
	v, err := c.Open(ctx, to)
	if err != nil {
		c.Close()
		return nil, findError(ctx, err, to)
	}
	return &node{o: o, c: c, v: v, write: access.Write}, nil
}

// kindOf is the kind of an error, nil if there is none.
func kindOf(err error) error {
	switch {
	case errors.Is(err, sheepdog.NoVDI), errors.Is(err, sheepdog.NoTag):
		return driver.ErrNotExist
	case errors.Is(err, sheepdog.VDILocked):
		return driver.ErrLocked
	case errors.Is(err, sheepdog.VDIExists):
		return driver.ErrExists
	case errors.Is(err, sheepdog.NoSpace):
		return driver.ErrNoSpace
	case errors.Is(err, sheepdog.ErrTree):
		return driver.ErrUnsupported
	case errors.Is(err, sheepdog.ErrTimeout):
		return driver.ErrTimeout
	}
	return nil
}

// findError is the error of looking a VDI up.
func findError(ctx context.Context, err error, to sheepdog.Open) error {
	var refused sheepdog.Result
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &refused):
		return driver.Errorf(kindOf(err), "cannot get vdi info, %s, %s %d %s", refused.Error(), to.Name, to.Snapshot, to.Tag)
	}
	return driver.Errorf(kindOf(err), "cannot open VDI '%s': %w", to.Name, err)
}
