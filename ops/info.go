package ops

import (
	"context"
	"os"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/qapi"
)

// InfoOptions say what to describe.
type InfoOptions struct {
	Limits bool // also the limits of requests to the image and its children
}

// Info describes an open image and its children. The backing file is named, not
// described.
func Info(ctx context.Context, img *block.Image, o InfoOptions) (*qapi.ImageInfo, error) {
	d, err := img.Info(ctx)
	if err != nil {
		return nil, err
	}
	out := &qapi.ImageInfo{
		Children:       []qapi.ImageChild{},
		VirtualSize:    img.Size(),
		Filename:       img.Filename(),
		Format:         img.Format(),
		ClusterSize:    d.ClusterSize,
		Encrypted:      img.Traits().Encrypted,
		Compressed:     d.Compressed,
		FormatSpecific: d.Specific,
	}
	if out.Snapshots, _, err = img.Snapshots().List(ctx); err != nil {
		return nil, err
	}
	state, err := img.State(ctx)
	if err != nil {
		return nil, err
	}
	if state != nil {
		out.DirtyFlag = &state.Dirty
	}
	if o.Limits {
		out.Limits = limits(img)
	}
	if err := actualSize(ctx, img, out); err != nil {
		return nil, err
	}
	if state != nil && state.Backing != nil && state.Backing.Filename != "" {
		out.Backing = state.Backing.Filename
		out.BackingFormat = state.Backing.Format
		// Where there is no directory for a relative name, the full name is unknown.
		out.FullBacking, _ = img.Tree().Resolve(state.Backing.Filename)
	}
	if out.ClusterSize == 0 {
		// A filter reports the cluster size of its child.
		for c := img.Tree().PassedThrough(); c != nil && out.ClusterSize == 0; c = c.Tree().PassedThrough() {
			below, err := c.Info(ctx)
			if err != nil {
				return nil, err
			}
			out.ClusterSize = below.ClusterSize
		}
	}
	if img.Unwrap() != nil {
		// The length of a file counts in whole sectors.
		out.VirtualSize = (out.VirtualSize + 511) &^ 511
	}
	for i := range img.Tree().Children() {
		// The last one opened comes first, as with QEMU.
		c := img.Tree().Children()[len(img.Tree().Children())-1-i]
		if c.Role == "data-file" {
			// The backing file was not opened, so it is not among the children.
			continue
		}
		info, err := Info(ctx, c.Image, o)
		if err != nil {
			return nil, err
		}
		if c.Role == "header" && out.ActualSize != nil && info.ActualSize != nil {
			*out.ActualSize += *info.ActualSize
		}
		out.Children = append(out.Children, qapi.ImageChild{Name: c.Role, Info: *info})
	}
	return out, nil
}

// maxIOV is IOV_MAX, which QEMU tells of every node: how many buffers a system call takes.
const maxIOV = 1024

// limits returns the limits of a node. A request has one buffer with any address; the
// driver aligns it where the system needs that.
func limits(img *block.Image) *qapi.BlockLimitsInfo {
	l := img.Limits()
	return &qapi.BlockLimitsInfo{
		RequestAlignment:     max(l.RequestAlignment, 1),
		DiscardAlignment:     l.DiscardAlignment,
		WriteZeroesAlignment: l.ZeroAlignment,
		OptTransfer:          l.OptTransfer,
		MaxTransfer:          l.MaxTransfer,
		MaxIOV:               maxIOV,
		MinMemAlignment:      1,
		OptMemAlignment:      max(l.OptTransfer, int64(os.Getpagesize())),
	}
}

// actualSize sets the disk usage. It stays unset where that is unknown.
func actualSize(ctx context.Context, img *block.Image, out *qapi.ImageInfo) error {
	n, err := diskUsage(ctx, img)
	if err == nil && n >= 0 {
		out.ActualSize = &n
	}
	return err
}

// diskUsage is that of the protocol below an image, or of all children together where
// a node filters none; -1 if it is unknown, as it is for filters that have file names of their
// own.
func diskUsage(ctx context.Context, img *block.Image) (int64, error) {
	desc := img.Tree().Driver().Desc()
	switch {
	case desc.Kind == driver.KindProtocol:
		return img.DiskUsage(ctx)
	case desc.Kind == driver.KindFormat:
		sum, err := diskUsage(ctx, img.Tree().File())
		for _, c := range img.Tree().Children() {
			// Extents are parts of the image, whatever their number.
			if d := desc.Child(c.Role); err != nil || sum < 0 || d == nil || !d.List {
				continue
			}
			var n int64
			if n, err = diskUsage(ctx, c.Image); n < 0 {
				sum = n
			} else {
				sum += n
			}
		}
		return sum, err
	case len(desc.Schemes) > 0:
		return -1, nil
	case img.Tree().PassedThrough() != nil:
		return diskUsage(ctx, img.Tree().PassedThrough())
	}
	sum := int64(0)
	for _, c := range img.Tree().Children() {
		n, err := diskUsage(ctx, c.Image)
		if err != nil || n < 0 {
			return -1, err
		}
		sum += n
	}
	return sum, nil
}

// InfoChain describes an image and the chain of its backing files, each opened
// by itself: open opens src and then one backing file after the other, without
// their own backing files. A chain with a loop is an error.
func InfoChain(ctx context.Context, src block.Source, o InfoOptions, open func(context.Context, block.Source) (*block.Image, error)) ([]*qapi.ImageInfo, error) {
	var list []*qapi.ImageInfo
	seen := map[string]bool{}
	for {
		name := src.Filename
		if name != "" && seen[name] {
			return nil, driver.Errorf(driver.ErrCorrupt, "backing file '%s' creates an infinite loop", name)
		}
		seen[name] = true
		info, err := infoOf(ctx, src, o, open)
		if err != nil {
			return nil, err
		}
		list = append(list, info)
		next := info.FullBacking
		if next == "" {
			next = info.Backing
		}
		if next == "" {
			return list, nil
		}
		src = block.Source{Filename: next, Format: info.BackingFormat}
	}
}

func infoOf(ctx context.Context, src block.Source, o InfoOptions, open func(context.Context, block.Source) (*block.Image, error)) (*qapi.ImageInfo, error) {
	img, err := open(ctx, src)
	if err != nil {
		return nil, err
	}
	info, err := Info(ctx, img, o)
	if e := img.Close(ctx); err == nil {
		err = e
	}
	return info, err
}
