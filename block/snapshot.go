package block

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/qapi"
)

// SnapshotSet is the internal snapshots of an image. It stays valid as long as the image
// is open.
type SnapshotSet struct{ img *Image }

// Snapshots returns the internal snapshots of the image: also where it can have none,
// which List then tells.
func (img *Image) Snapshots() SnapshotSet { return SnapshotSet{img} }

// List lists the internal snapshots. ok is false if the format has none and
// cannot have any.
func (s SnapshotSet) List(ctx context.Context) (list []qapi.SnapshotInfo, ok bool, err error) {
	at := s.img.withSnapshots()
	node, ok := at.node.(driver.Snapshotter)
	if !ok {
		return nil, false, nil
	}
	if list, err = node.Snapshots(ctx); err != nil {
		err = at.fail("list snapshots", -1, err)
	}
	return list, true, err
}

// withSnapshots returns the image whose snapshots are those of img: filters and raw
// images have those of their child.
func (img *Image) withSnapshots() *Image {
	for {
		child := img.Tree().PassedThrough()
		if child == nil {
			return img
		}
		img = child
	}
}

// Create keeps the disk as it is now as an internal snapshot and returns
// its id. Writes that are under way end before, others wait until it is done.
func (s SnapshotSet) Create(ctx context.Context, req driver.SnapshotRequest) (id string, err error) {
	err = s.img.snapshot("create snapshot", func(s driver.Snapshotter) (err error) {
		id, err = s.CreateSnapshot(ctx, req)
		return err
	})
	return id, err
}

// Apply makes the disk, and its size, what they were when the snapshot
// was taken. It waits for the writes under way and holds up others, as
// CreateSnapshot does; reads during the call see the one or the other content.
func (s SnapshotSet) Apply(ctx context.Context, idOrName string) error {
	return s.img.snapshot("apply snapshot", func(s driver.Snapshotter) error { return s.ApplySnapshot(ctx, idOrName) })
}

// Delete removes the first snapshot that has the id and the name.
func (s SnapshotSet) Delete(ctx context.Context, id, name string) error {
	return s.img.snapshot("delete snapshot", func(s driver.Snapshotter) error { return s.DeleteSnapshot(ctx, id, name) })
}

// snapshot runs f while nothing changes the disk.
func (img *Image) snapshot(op string, f func(driver.Snapshotter) error) error {
	at := img.withSnapshots()
	s, ok := at.node.(driver.Snapshotter)
	if !ok {
		return img.fail(op, -1, driver.Errorf(driver.ErrUnsupported, "the format %s has no internal snapshots", at.desc.Name))
	}
	if err := at.checkWritable(op, -1); err != nil {
		return err
	}
	at.changing.Lock()
	defer at.changing.Unlock()
	at.lock()
	defer at.unlock()
	return at.fail(op, -1, f(s))
}
