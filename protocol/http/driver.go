package http

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

type web struct{ desc *driver.Desc }

// New returns the driver "http".
func New() driver.Driver { return newWeb("http", "Disks on web servers") }

// NewTLS returns the driver "https".
func NewTLS() driver.Driver { return newWeb("https", "Disks on web servers, over TLS") }

func newWeb(scheme, summary string) driver.Driver {
	return &web{&driver.Desc{Name: scheme, Kind: driver.KindProtocol, Schemes: []string{scheme}, Summary: summary, OpenOptions: openSchema}}
}

var _ driver.FilenameParser = (*web)(nil)

// Desc implements driver.Driver.
func (d *web) Desc() *driver.Desc { return d.desc }

// ParseFilename implements driver.FilenameParser: the whole name is the URL.
func (d *web) ParseFilename(name string) (opts.Dict, error) {
	return opts.Dict{"url": name}, nil
}

// Open implements driver.Driver.
func (d *web) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o openOptions
	if err := openSchema.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	if req.Access.Write {
		return nil, driver.Errorf(driver.ErrReadOnly, "curl driver does not support writes")
	}
	u, err := o.check(d.desc.Name)
	if err != nil {
		return nil, err
	}
	c, err := newClient(u, &o, req.Env.Objects)
	if err != nil {
		return nil, err
	}
	n := &node{src: c, c: c, name: o.name(d.desc.Name)}
	if err := n.open(ctx, o.Readahead, req.Env, req.Sequential); err != nil {
		n.release()
		return nil, driver.Errorf(driver.ErrInvalid, "error opening file: %w", err)
	}
	return n, nil
}
