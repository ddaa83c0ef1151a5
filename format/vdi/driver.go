package vdi

import (
	"context"
	"encoding/binary"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

type vdiDriver struct{}

// New returns the driver "vdi".
func New() driver.Driver { return vdiDriver{} }

// openOptions: there are none.
type openOptions struct{}

// createOptions declares what Create and Measure accept.
type createOptions struct {
	Size   int64 `opt:"size" type:"size" help:"Virtual disk size"`
	Static bool  `opt:"static" default:"off" help:"VDI static (pre-allocated) image"`
	// Those that are hidden QEMU does not have.
	BackingFile   string `opt:"backing_file" hidden:"on" help:"File name of a base image"`
	BackingFormat string `opt:"backing_fmt" hidden:"on" help:"Image format of the base image"`
}

var desc = driver.Desc{
	Name: "vdi",
	Kind: driver.KindFormat,
	Children: []driver.ChildDesc{
		{Role: "file", Use: driver.UseMetadata},
		{Role: "backing", Use: driver.UseBacking, Optional: true},
	},
	NoCompression: true,
	CreateOrder:   strings.Fields("size backing_file backing_fmt static preallocation nocow extent_size_hint"),
	Summary:       "VirtualBox disk image",
	OpenOptions:   opts.SchemaOf(openOptions{}),
	CreateOptions: opts.SchemaOf(createOptions{}),
}

var (
	_ driver.Prober   = vdiDriver{}
	_ driver.Creator  = vdiDriver{}
	_ driver.Measurer = vdiDriver{}

	_ driver.Allocator  = (*image)(nil)
	_ driver.ZeroWriter = (*image)(nil)
	_ driver.Discarder  = (*image)(nil)

	_ driver.ParentFinder  = (*image)(nil)
	_ driver.ParentChecker = (*image)(nil)
)

// Desc implements driver.Driver.
func (vdiDriver) Desc() *driver.Desc { return &desc }

// Probe implements driver.Prober.
func (vdiDriver) Probe(head []byte, _ int64, _ string) int {
	if len(head) >= headerSize && binary.LittleEndian.Uint32(head[offSignature:]) == signature {
		return 100
	}
	return 0
}

// Open implements driver.Driver.
func (vdiDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o openOptions
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	return open(ctx, req)
}
