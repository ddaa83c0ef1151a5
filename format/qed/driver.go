package qed

import (
	"context"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

type qedDriver struct{}

// New returns the driver "qed".
func New() driver.Driver { return qedDriver{} }

// openOptions: there are none.
type openOptions struct{}

// createOptions declares what Create and Measure accept.
type createOptions struct {
	BackingFile   string `opt:"backing_file" help:"File name of a base image"`
	BackingFormat string `opt:"backing_fmt" help:"Image format of the base image"`
	ClusterSize   int64  `opt:"cluster_size" type:"size" default:"65536" help:"Cluster size (in bytes)"`
	Size          int64  `opt:"size" type:"size" help:"Virtual disk size"`
	TableSize     *int64 `opt:"table_size" type:"size" help:"L1/L2 table size (in clusters)"`
}

var desc = driver.Desc{
	Name: "qed",
	Kind: driver.KindFormat,
	Children: []driver.ChildDesc{
		{Role: "file", Use: driver.UseMetadata},
		{Role: "backing", Use: driver.UseBacking, Optional: true},
	},
	NoCompression: true,
	CreateOrder:   strings.Fields("size backing_file backing_fmt cluster_size table_size preallocation nocow extent_size_hint"),
	Summary:       "QEMU enhanced disk",
	OpenOptions:   opts.SchemaOf(openOptions{}),
	CreateOptions: opts.SchemaOf(createOptions{}),
}

var (
	_ driver.Prober   = qedDriver{}
	_ driver.Creator  = qedDriver{}
	_ driver.Measurer = qedDriver{}

	_ driver.Allocator      = (*image)(nil)
	_ driver.ZeroWriter     = (*image)(nil)
	_ driver.Discarder      = (*image)(nil)
	_ driver.Resizer        = (*image)(nil)
	_ driver.Checker        = (*image)(nil)
	_ driver.BackingChanger = (*image)(nil)
	_ driver.Stater         = (*image)(nil)
	_ driver.Describer      = (*image)(nil)
)

// Desc implements driver.Driver.
func (qedDriver) Desc() *driver.Desc { return &desc }

// Probe implements driver.Prober.
func (qedDriver) Probe(head []byte, _ int64, _ string) int {
	if len(head) >= headerSize && string(head[:len(magic)]) == magic {
		return 100
	}
	return 0
}

// Open implements driver.Driver.
func (qedDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o openOptions
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	return open(ctx, req)
}
