package vhdx

import (
	"context"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

type vhdxDriver struct{}

// New returns the driver "vhdx".
func New() driver.Driver { return vhdxDriver{} }

// openOptions: there are none.
type openOptions struct{}

// createOptions declares what Create and Measure accept. Those that are hidden QEMU does not
// have.
type createOptions struct {
	BlockSize     int64  `opt:"block_size" type:"size" default:"0" help:"Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size."`
	ZeroBlocks    *bool  `opt:"block_state_zero" help:"Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when using 'qemu-img convert' with subformat=dynamic."`
	LogSize       int64  `opt:"log_size" type:"size" default:"1048576" help:"Log size; min 1MB."`
	Size          int64  `opt:"size" type:"size" help:"Virtual disk size; max of 64TB."`
	Subformat     string `opt:"subformat" help:"VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'."`
	BackingFile   string `opt:"backing_file" hidden:"on" help:"File name of a base image"`
	BackingFormat string `opt:"backing_fmt" hidden:"on" help:"Image format of the base image"`
	Logical       int64  `opt:"logical_sector_size" type:"size" hidden:"on" help:"Logical sector size, 512 or 4096"`
	Physical      int64  `opt:"physical_sector_size" type:"size" hidden:"on" help:"Physical sector size, 512 or 4096"`
}

var desc = driver.Desc{
	Name: "vhdx",
	Kind: driver.KindFormat,
	Children: []driver.ChildDesc{
		{Role: "file", Use: driver.UseMetadata},
		{Role: "backing", Use: driver.UseBacking, Optional: true},
	},
	NoCompression: true,
	CreateOrder: strings.Fields("size backing_file backing_fmt log_size block_size subformat block_state_zero logical_sector_size " +
		"physical_sector_size preallocation nocow extent_size_hint"),
	Summary:       "Virtual hard disk, second generation (VHDX), of Hyper-V",
	OpenOptions:   opts.SchemaOf(openOptions{}),
	CreateOptions: opts.SchemaOf(createOptions{}),
}

var (
	_ driver.Prober   = vhdxDriver{}
	_ driver.Creator  = vhdxDriver{}
	_ driver.Measurer = vhdxDriver{}

	_ driver.Allocator     = (*image)(nil)
	_ driver.ZeroWriter    = (*image)(nil)
	_ driver.Discarder     = (*image)(nil)
	_ driver.Resizer       = (*image)(nil)
	_ driver.Checker       = (*image)(nil)
	_ driver.ParentChecker = (*image)(nil)
)

// Desc implements driver.Driver.
func (vhdxDriver) Desc() *driver.Desc { return &desc }

// Probe implements driver.Prober.
func (vhdxDriver) Probe(head []byte, _ int64, _ string) int {
	if len(head) >= len(fileSignature) && string(head[:len(fileSignature)]) == fileSignature {
		return 100
	}
	return 0
}

// Open implements driver.Driver.
func (vhdxDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o openOptions
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	im, err := open(ctx, req)
	if err != nil {
		return nil, err
	}
	return im, nil
}
