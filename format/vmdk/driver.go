package vmdk

import (
	"bytes"
	"context"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// openOptions: there are none, but those of extents.
type openOptions struct{}

// createOptions declares what Create accepts.
type createOptions struct {
	AdapterType   string `opt:"adapter_type" help:"Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX"`
	BackingFile   string `opt:"backing_file" help:"File name of a base image"`
	BackingFormat string `opt:"backing_fmt" help:"Must be 'vmdk' if present"`
	Compat6       bool   `opt:"compat6" default:"off" help:"VMDK version 6 image"`
	HWVersion     string `opt:"hwversion" default:"undefined" help:"VMDK hardware version"`
	Size          int64  `opt:"size" type:"size" help:"Virtual disk size"`
	Subformat     string `opt:"subformat" help:"VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} "`
	ToolsVersion  string `opt:"toolsversion" help:"VMware guest tools version"`
	ZeroedGrain   bool   `opt:"zeroed_grain" help:"Enable efficient zero writes using the zeroed-grain GTE feature"`
}

var desc = driver.Desc{
	Name: "vmdk",
	Kind: driver.KindFormat,
	Children: []driver.ChildDesc{
		{Role: "file", Use: driver.UseMetadata},
		{Role: "backing", Use: driver.UseBacking, Optional: true},
		{Role: "extents", Use: driver.UseData, List: true, Optional: true, ByDriver: true},
	},
	CreateOrder:   strings.Fields("size adapter_type backing_file backing_fmt compat6 hwversion toolsversion subformat zeroed_grain preallocation"),
	Summary:       "VMware disks",
	OpenOptions:   opts.SchemaOf(openOptions{}),
	CreateOptions: opts.SchemaOf(createOptions{}),
}

type vmdkDriver struct{}

// New returns the driver "vmdk".
func New() driver.Driver { return vmdkDriver{} }

var (
	_ driver.Prober   = vmdkDriver{}
	_ driver.Creator  = vmdkDriver{}
	_ driver.Measurer = vmdkDriver{}
)

// Desc implements driver.Driver.
func (vmdkDriver) Desc() *driver.Desc { return &desc }

// Probe implements driver.Prober: sparse extents, and descriptors, text in which only
// comments and empty lines come before the version.
func (vmdkDriver) Probe(head []byte, _ int64, _ string) int {
	for _, magic := range []string{magicSparse, magicCOWD} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return 100
		}
	}
	for len(head) > 0 {
		line, rest, whole := bytes.Cut(head, []byte{'\n'})
		switch {
		case !whole:
			return 0
		case bytes.HasPrefix(line, []byte{'#'}):
		case bytes.HasPrefix(line, []byte{' '}) && len(bytes.TrimLeft(bytes.TrimSuffix(line, []byte{'\r'}), " ")) == 0:
		default:
			switch string(bytes.TrimSuffix(line, []byte{'\r'})) {
			case "version=1", "version=2", "version=3":
				return 100
			}
			return 0
		}
		head = rest
	}
	return 0
}

// Open implements driver.Driver.
func (vmdkDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	return open(ctx, req)
}
