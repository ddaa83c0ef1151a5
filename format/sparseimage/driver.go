package sparseimage

import (
	"context"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/applecrypt"
	"github.com/cowl-disk/cowl/opts"
)

var desc = driver.Desc{
	Name:        "sparseimage",
	Kind:        driver.KindFormat,
	Children:    []driver.ChildDesc{{Role: "file", Use: driver.UseMetadata}},
	Summary:     "Sparse disk images of macOS in one file (read only)",
	OpenOptions: opts.SchemaOf(applecrypt.Options{}),
}

type sparseDriver struct{}

// New returns the driver "sparseimage".
func New() driver.Driver { return sparseDriver{} }

var (
	_ driver.Prober    = sparseDriver{}
	_ driver.Format    = (*node)(nil)
	_ driver.Describer = (*node)(nil)
)

// Desc implements driver.Driver.
func (sparseDriver) Desc() *driver.Desc { return &desc }

// Probe implements driver.Prober. Of an encrypted image, the name tells.
func (sparseDriver) Probe(head []byte, _ int64, name string) int {
	if strings.HasPrefix(string(head), "encrcdsa") && strings.HasSuffix(name, ".sparseimage") {
		return 100
	}
	if len(head) >= headerSize && string(head[:len(magic)]) == magic && be.Uint32(head[offVersion:]) == version {
		return 100
	}
	return 0
}

// Open implements driver.Driver.
func (sparseDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o applecrypt.Options
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	file, encrypted, err := o.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	n, err := open(ctx, file, req.Env.Budget)
	if err != nil {
		return nil, err
	}
	n.encrypted = encrypted
	return n, nil
}
