package rbd

import (
	"context"
	"errors"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/native"
	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/qapi"
)

// node is an open image.
type node struct {
	*native.Disk
	o *openOptions
}

var (
	_ driver.Storage     = (*node)(nil)
	_ driver.Named       = (*node)(nil)
	_ driver.Describer   = (*node)(nil)
	_ driver.Stater      = (*node)(nil)
	_ driver.Snapshotter = (*node)(nil)
)

// Filename implements driver.Named.
func (n *node) Filename() string { return n.o.name() }

// Traits implements driver.Node.
func (n *node) Traits() driver.Traits {
	t := n.Disk.Traits()
	t.ObjectZeroes = true
	return t
}

// Resize implements driver.Resizer.
func (n *node) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	if opt.Prealloc != "" && opt.Prealloc != driver.PreallocOff {
		return driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode '%s'", opt.Prealloc)
	}
	return n.Disk.Resize(ctx, size, opt)
}

// The beginnings of encrypted images: of LUKS, and of clones with a layer of their own.
const (
	luksMagic    = "LUKS\xba\xbe\x00"
	layeredMagic = "RBDL\xba\xbe\x00"
)

// Info implements driver.Describer.
func (n *node) Info(ctx context.Context) (*driver.Info, error) {
	data := qapi.InfoSpecificRBD{}
	head := make([]byte, len(luksMagic)+1)
	if n.Size() >= int64(len(head)) {
		if _, err := n.ReadAt(ctx, head, 0); err != nil {
			return nil, err
		}
		if magic := string(head[:len(luksMagic)]); magic == luksMagic || magic == layeredMagic {
			data.EncryptionFormat = map[byte]string{1: "luks", 2: "luks2"}[head[len(luksMagic)]]
		}
	}
	return &driver.Info{ClusterSize: n.Facts().Object, Specific: &qapi.ImageInfoSpecific{Type: "rbd", Data: data}}, nil
}

// State implements driver.Stater: the cluster keeps images in order.
func (*node) State(context.Context) (*driver.State, error) { return &driver.State{}, nil }

// Snapshots implements driver.Snapshotter. The cluster knows them by their names.
func (n *node) Snapshots(ctx context.Context) ([]qapi.SnapshotInfo, error) {
	var list []link.Snapshot
	if err := n.Call(ctx, link.OpSnapshots, nil, &list); err != nil {
		return nil, err
	}
	icount := int64(0) // as QEMU tells it
	infos := make([]qapi.SnapshotInfo, len(list))
	for i, s := range list {
		infos[i] = qapi.SnapshotInfo{ID: s.Name, Name: s.Name, VMStateSize: s.Size, Icount: &icount}
	}
	return infos, nil
}

// CreateSnapshot implements driver.Snapshotter. The cluster keeps the time by itself.
func (n *node) CreateSnapshot(ctx context.Context, req driver.SnapshotRequest) (string, error) {
	if req.Name == "" {
		return "", driver.Errorf(driver.ErrInvalid, "snapshots of rbd need a name: %w", syscall.EINVAL)
	}
	if err := n.Flush(ctx); err != nil {
		return "", err
	}
	return req.Name, n.Call(ctx, link.OpCreateSnapshot, req.Name, nil)
}

// ApplySnapshot implements driver.Snapshotter.
func (n *node) ApplySnapshot(ctx context.Context, idOrName string) error {
	var size int64
	if err := n.Call(ctx, link.OpApplySnapshot, idOrName, &size); err != nil {
		if errors.Is(err, syscall.ENOENT) {
			return driver.Errorf(driver.ErrNoSnapshot, "there is no snapshot '%s': %w", idOrName, err)
		}
		return err
	}
	n.SetSize(size)
	return nil
}

// DeleteSnapshot implements driver.Snapshotter.
func (n *node) DeleteSnapshot(ctx context.Context, id, name string) error {
	if id != name {
		return driver.Errorf(driver.ErrNoSnapshot, "snapshots of rbd have their names as their ids: there is none with the id '%s' and the name '%s'", id, name)
	}
	return n.Call(ctx, link.OpDeleteSnapshot, name, nil)
}
