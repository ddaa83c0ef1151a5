package qcow2

import (
	"context"
	"encoding/binary"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/layout"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// Driver is the qcow2 driver.
type Driver struct{}

// New returns the qcow2 driver.
func New() driver.Driver { return &Driver{} }

var desc = driver.Desc{
	Name: "qcow2",
	Kind: driver.KindFormat,
	Children: []driver.ChildDesc{
		{Role: "file", Use: driver.UseMetadata},
		{Role: "backing", Use: driver.UseBacking, Optional: true},
		{Role: "data-file", Use: driver.UseData, Optional: true, ByDriver: true},
	},
	Summary:       "QEMU copy-on-write image, versions 2 and 3",
	StoresBitmaps: true,
	CreateOrder: strings.Fields(`encryption encrypt.format encrypt.key-secret encrypt.cipher-alg encrypt.cipher-mode
		encrypt.ivgen-alg encrypt.ivgen-hash-alg encrypt.hash-alg encrypt.iter-time cluster_size extended_l2 preallocation
		compression_type keep_data_file size compat backing_file backing_fmt data_file data_file_raw lazy_refcounts refcount_bits nocow
		extent_size_hint`),
	OpenOptions:   openSchema,
	CreateOptions: layout.Schema,
	AmendOptions:  amendSchema,
}

// Desc describes the driver.
func (*Driver) Desc() *driver.Desc { return &desc }

// Probe recognises the magic and a version of at least 2.
func (*Driver) Probe(head []byte, _ int64, _ string) int {
	if len(head) >= 8 && binary.BigEndian.Uint32(head) == ondisk.Magic && binary.BigEndian.Uint32(head[4:]) >= 2 {
		return 100
	}
	return 0
}

// Open opens an image.
func (*Driver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	return openImage(ctx, req)
}

var (
	_ driver.Driver = (*Driver)(nil)
	_ driver.Prober = (*Driver)(nil)

	_ driver.Snapshotter = (*image)(nil)
)
