package parallels

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

type parallelsDriver struct{}

// New returns the driver "parallels".
func New() driver.Driver { return parallelsDriver{} }

// openOptions declares what Open accepts.
type openOptions struct {
	Snapshot string `opt:"snapshot" help:"Identifier of the snapshot of a bundle to read"`
}

// createOptions declares what Create and Measure accept.
type createOptions struct {
	ClusterSize int64 `opt:"cluster_size" type:"size" default:"1048576" help:"Parallels image cluster size"`
	Size        int64 `opt:"size" type:"size" help:"Virtual disk size"`
}

var desc = driver.Desc{
	Name: "parallels",
	Kind: driver.KindFormat,
	Children: []driver.ChildDesc{
		{Role: "file", Use: driver.UseMetadata},
		{Role: "backing", Use: driver.UseBacking, Optional: true}, // of options: no image names one
		{Role: "images", Use: driver.UseData, List: true, Optional: true, ByDriver: true},
	},
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

// Probe implements driver.Prober. A descriptor is told by its name, too, so that nothing
// that a guest writes is taken for one.
func (parallelsDriver) Probe(head []byte, _ int64, name string) int {
	if name[strings.LastIndexAny(name, `/\`)+1:] == descriptorName && bytes.Contains(head, []byte(descriptorMark)) {
		return 100
	}
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
	head := make([]byte, driver.ProbeBytes)
	n, err := req.File.ReadAt(ctx, head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if bytes.Contains(head[:n], []byte(descriptorMark)) {
		if req.BackingGiven {
			return nil, driver.Errorf(driver.ErrInvalid, "a bundle has no other backing files than its own")
		}
		return openBundle(ctx, req, o.Snapshot)
	}
	if o.Snapshot != "" {
		return nil, driver.Errorf(driver.ErrInvalid, "'snapshot' is given, but the image is no bundle")
	}
	im, err := open(ctx, req)
	if err != nil {
		return nil, err
	}
	if !req.Access.Write {
		return &readOnlyImage{image: im, budget: req.Env.Budget}, nil
	}
	return im, nil
}
