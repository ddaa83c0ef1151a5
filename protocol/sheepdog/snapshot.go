package sheepdog

import (
	"context"
	"errors"
	"strconv"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/qapi"
	"github.com/cowl-disk/cowl/sheepdog"
)

// snapshotFailed is the error of an operation on snapshots.
func (n *node) snapshotFailed(ctx context.Context, err error) error {
	switch {
	case err == nil || ctx.Err() != nil:
		return errors.Join(ctx.Err())
	case errors.Is(err, sheepdog.NoTag), errors.Is(err, sheepdog.NoVDI):
		return driver.Errorf(driver.ErrNoSnapshot, "can't find the snapshot")
	case errors.Is(err, sheepdog.ErrSnapshot):
		return driver.Errorf(driver.ErrInvalid, "you can't create a snapshot of a snapshot VDI, %s (%d)", n.o.VDI, n.v.Number())
	}
	return n.failed(ctx, err)
}

// exclusively runs f while no request is under way.
func (n *node) exclusively(ctx context.Context, f func() error) error {
	if err := n.writable(ctx, 0); err != nil {
		return err
	}
	n.sizeMu.Lock()
	defer n.sizeMu.Unlock()
	return n.snapshotFailed(ctx, f())
}

// Snapshots implements driver.Snapshotter.
func (n *node) Snapshots(ctx context.Context) ([]qapi.SnapshotInfo, error) {
	found, err := n.v.Snapshots(ctx)
	if err != nil {
		return nil, n.failed(ctx, err)
	}
	var list []qapi.SnapshotInfo
	for _, s := range found {
		list = append(list, qapi.SnapshotInfo{ID: strconv.FormatUint(uint64(s.Number), 10), Name: s.Tag, VMStateSize: s.State,
			DateSec: s.Taken.Unix(), DateNsec: int64(s.Taken.Nanosecond()), VMClockSec: int64(s.Clock / 1e9), VMClockNsec: int64(s.Clock % 1e9)})
	}
	return list, nil
}

// CreateSnapshot implements driver.Snapshotter.
func (n *node) CreateSnapshot(ctx context.Context, req driver.SnapshotRequest) (id string, err error) {
	err = n.exclusively(ctx, func() error {
		number, err := n.v.TakeSnapshot(ctx, req.Name)
		id = strconv.FormatUint(uint64(number), 10)
		return err
	})
	return id, err
}

// ApplySnapshot implements driver.Snapshotter.
func (n *node) ApplySnapshot(ctx context.Context, idOrName string) error {
	return n.exclusively(ctx, func() error { return n.v.Apply(ctx, idOrName) })
}

// DeleteSnapshot implements driver.Snapshotter.
func (n *node) DeleteSnapshot(ctx context.Context, id, name string) error {
	return n.exclusively(ctx, func() error {
		list, err := n.v.Snapshots(ctx)
		if err != nil {
			return err
		}
		for _, s := range list {
			if strconv.FormatUint(uint64(s.Number), 10) == id && s.Tag == name {
				return n.v.DeleteSnapshot(ctx, s.Number)
			}
		}
		return sheepdog.NoTag
	})
}

// OpenSnapshot implements driver.SnapshotOpener.
func (n *node) OpenSnapshot(ctx context.Context, idOrName string) error {
	n.sizeMu.Lock()
	defer n.sizeMu.Unlock()
	return n.snapshotFailed(ctx, n.v.View(ctx, idOrName))
}
