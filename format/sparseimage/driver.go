package sparseimage

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

var desc = driver.Desc{
	Name:        "sparseimage",
	Kind:        driver.KindFormat,
	Children:    []driver.ChildDesc{{Role: "file", Use: driver.UseMetadata}},
	Summary:     "Sparse disk images of macOS in one file (read only)",
	OpenOptions: opts.SchemaOf(struct{}{}),
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

// Probe implements driver.Prober.
func (sparseDriver) Probe(head []byte, _ int64, _ string) int {
	if len(head) >= headerSize && string(head[:len(magic)]) == magic && be.Uint32(head[offVersion:]) == version {
		return 100
	}
	return 0
}

// Open implements driver.Driver.
func (sparseDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	if err := desc.OpenOptions.Decode(req.Options, &struct{}{}); err != nil {
		return nil, err
	}
	if req.Access.Write {
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	return open(ctx, req.File, req.Env.Budget)
}
