// Package snapshotaccess is the driver through which QEMU reads the snapshot of a
// running backup job. No such job runs in these programs: the driver opens, so that
// what names it can be looked at, and every access to data is refused, as in qemu-img.
package snapshotaccess

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/pass"
	"github.com/cowl-disk/cowl/opts"
)

var desc = driver.Desc{
	Name:        "snapshot-access",
	Kind:        driver.KindFilter,
	Children:    []driver.ChildDesc{{Role: pass.Role, Use: driver.UseData}},
	Summary:     "The snapshot of a backup job",
	OpenOptions: opts.SchemaOf(struct{}{}),
}

type snapshotAccess struct{}

// New returns the driver "snapshot-access".
func New() driver.Driver { return snapshotAccess{} }

// Desc implements driver.Driver.
func (snapshotAccess) Desc() *driver.Desc { return &desc }

// Open implements driver.Driver.
func (snapshotAccess) Open(_ context.Context, req *driver.OpenRequest) (driver.Node, error) {
	if err := desc.OpenOptions.Decode(req.Options, &struct{}{}); err != nil {
		return nil, err
	}
	if req.Access.Write {
		return nil, driver.Errorf(driver.ErrReadOnly, "block node is read-only")
	}
	return &node{req.File}, nil
}

type node struct{ child driver.Storage }

var errNoSnapshot = driver.Errorf(driver.ErrUnsupported, "operation not supported")

func (n *node) Size() int64           { return n.child.Size() }
func (n *node) Limits() driver.Limits { return driver.Limits{} }
func (n *node) Traits() driver.Traits { return driver.Traits{} }
func (n *node) Filename() string {
	if f, ok := n.child.(driver.Named); ok {
		return f.Filename()
	}
	return ""
}
func (n *node) Flush(context.Context) error { return nil }
func (n *node) Close(context.Context) error { return nil }
func (n *node) ReadAt(context.Context, []byte, int64) (int, error) {
	return 0, errNoSnapshot
}
func (n *node) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, errNoSnapshot
}
func (n *node) Map(context.Context, int64, int64) (driver.Extent, error) {
	return driver.Extent{}, errNoSnapshot
}
