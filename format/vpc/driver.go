package vpc

import (
	"context"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

type vpcDriver struct{}

// New returns the driver "vpc".
func New() driver.Driver { return vpcDriver{} }

// The values of force_size_calc.
const (
	sizeCHS     = "chs"
	sizeCurrent = "current_size"
)

type openOptions struct {
	ForceSize string `opt:"force_size_calc" help:"Force disk size calculation to use either CHS geometry, or use the disk current_size specified in the VHD footer. {chs, current_size}"`
}

// createOptions declares what Create and Measure accept.
type createOptions struct {
	ForceSize *bool  `opt:"force_size" help:"Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based calculation"`
	Size      int64  `opt:"size" type:"size" help:"Virtual disk size"`
	Subformat string `opt:"subformat" help:"Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} "`
	// Those that are hidden QEMU does not have.
	BackingFile   string `opt:"backing_file" hidden:"on" help:"File name of a base image"`
	BackingFormat string `opt:"backing_fmt" hidden:"on" help:"Image format of the base image"`
}

var desc = driver.Desc{
	Name: "vpc",
	Kind: driver.KindFormat,
	Children: []driver.ChildDesc{
		{Role: "file", Use: driver.UseMetadata},
		{Role: "backing", Use: driver.UseBacking, Optional: true},
	},
	NoCompression: true,
	CreateOrder:   strings.Fields("size backing_file backing_fmt subformat force_size preallocation nocow extent_size_hint"),
	Summary:       "Virtual hard disk (VHD) of Virtual PC, Hyper-V, Azure and XenServer",
	OpenOptions:   opts.SchemaOf(openOptions{}),
	CreateOptions: opts.SchemaOf(createOptions{}),
}

var (
	_ driver.Prober   = vpcDriver{}
	_ driver.Creator  = vpcDriver{}
	_ driver.Measurer = vpcDriver{}

	_ driver.Allocator     = (*image)(nil)
	_ driver.ZeroWriter    = (*image)(nil)
	_ driver.Discarder     = (*image)(nil)
	_ driver.Resizer       = (*image)(nil)
	_ driver.Checker       = (*image)(nil)
	_ driver.ParentChecker = (*image)(nil)
	_ driver.Allocator     = (*fixed)(nil)
	_ driver.ZeroWriter    = (*fixed)(nil)
	_ driver.Discarder     = (*fixed)(nil)
	_ driver.Resizer       = (*fixed)(nil)
	_ driver.Checker       = (*fixed)(nil)
)

// Desc implements driver.Driver.
func (vpcDriver) Desc() *driver.Desc { return &desc }

// Probe implements driver.Prober. Fixed disks are not recognised: they begin with what a
// guest wrote.
func (vpcDriver) Probe(head []byte, _ int64, _ string) int {
	if len(head) >= len(cookie) && string(head[:len(cookie)]) == cookie {
		return 100
	}
	return 0
}

// Open implements driver.Driver.
func (vpcDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o openOptions
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	if o.ForceSize != "" && o.ForceSize != sizeCHS && o.ForceSize != sizeCurrent {
		return nil, driver.Errorf(driver.ErrInvalid, "invalid size calculation mode: '%s'", o.ForceSize)
	}
	found, err := findFooter(ctx, req.File)
	if err != nil {
		return nil, err
	}
	if found.diskType == typeFixed {
		return openFixed(req, found, o.ForceSize)
	}
	return openDynamic(ctx, req, found, o.ForceSize)
}
