package parallels

import (
	"context"
	"encoding/binary"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

type parallelsDriver struct{}

// New returns the driver "parallels".
func New() driver.Driver { return parallelsDriver{} }

// openOptions: there are none.
type openOptions struct{}

// createOptions declares what Create and Measure accept.
type createOptions struct {
	ClusterSize int64 `opt:"cluster_size" type:"size" default:"1048576" help:"Parallels image cluster size"`
	Size        int64 `opt:"size" type:"size" help:"Virtual disk size"`
}

var desc = driver.Desc{
	Name:          "parallels",
	Kind:          driver.KindFormat,
	Children:      []driver.ChildDesc{{Role: "file", Use: driver.UseMetadata}},
	NoCompression: true,
	StoresBitmaps: true,
	CreateOrder:   strings.Fields("size cluster_size preallocation nocow extent_size_hint"),
	Summary:       "Parallels disk image",
	OpenOptions:   opts.SchemaOf(openOptions{}),
	CreateOptions: opts.SchemaOf(createOptions{}),
}

var (
	_ driver.Prober   = parallelsDriver{}
	_ driver.Creator  = parallelsDriver{}
	_ driver.Measurer = parallelsDriver{}

	_ driver.Allocator  = (*image)(nil)
	_ driver.ZeroWriter = (*image)(nil)
	_ driver.Discarder  = (*image)(nil)
	_ driver.Resizer    = (*image)(nil)
	_ driver.Checker    = (*image)(nil)
)

// Desc implements driver.Driver.
func (parallelsDriver) Desc() *driver.Desc { return &desc }

// Probe implements driver.Prober.
func (parallelsDriver) Probe(head []byte, _ int64, _ string) int {
	if len(head) < headerSize || binary.LittleEndian.Uint32(head[16:]) != version {
		return 0
	}
	if magic := string(head[:16]); magic != magicOld && magic != magicExt {
		return 0
	}
	return 100
}

// Open implements driver.Driver.
func (parallelsDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o openOptions
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	return open(ctx, req)
}
