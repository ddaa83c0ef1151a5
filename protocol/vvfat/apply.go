package vvfat

import (
	"context"
	"errors"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/fat"
)

// How the folder gets what the guest has written:
//
//   - The file system is read as the guest sees it (fat.Read). If it is inconsistent, nothing
//     happens: the guest is in the middle of its work.
//   - Files and folders of the guest are matched with those of the folder: by their first
//     cluster and by their names (match.go). What has no partner is new, or was deleted.
//   - New and changed contents are written into temporary files and synced (stage.go). Up to
//     here nothing that was in the folder has changed.
//   - Names are made as the guest has them: folders made, files and folders renamed, contents
//     renamed to their names (place.go). What is in the way is renamed first.
//   - What has no partner is removed at last.
//
// A crash leaves each file with its old or its new contents, perhaps by a name that begins with
// tempPrefix. What the guest does not see (links, devices, files that came later) is never
// replaced or removed, nor are files that have changed in the folder meanwhile: those are errors.

const (
	tempPrefix = ".cowl-vvfat-"
	maxRuns    = 4 << 20  // pieces of files, of what a guest has written
	maxText    = 32 << 20 // bytes of names, likewise
)

// apply brings the folder to the state that the guest sees. last: there is no later time, so
// that what can be taken from a file system with lost clusters is taken; what seems to be deleted
// in it is left. Called with mu.
func (n *node) apply(ctx context.Context, last bool) error {
	if n.overlay == nil || !n.changed || n.looked && !last {
		return nil
	}
	tree, err := fat.Read(&volumeReader{ctx, n}, &n.plan.Volume, fat.Limits{Entries: maxEntries, Depth: maxDepth, Runs: maxRuns, Text: maxText})
	inconsistent := errors.Is(err, fat.ErrInconsistent) || err == nil && tree.Lost > 0
	switch {
	case inconsistent && !last:
		n.looked = true
		return nil
	case err != nil:
		return driver.Errorf(err, "could not read the file system that the guest has written: %w", err)
	}
	a := newApplier(ctx, n)
	a.keep = tree.Lost > 0
	defer a.finish()
	if err := a.run(tree.Root); err != nil {
		return err
	}
	n.changed = false
	n.overlay.dirty = sectorSet{}
	return nil
}

// volumeReader reads the volume of a disk.
type volumeReader struct {
	ctx context.Context
	n   *node
}

func (r *volumeReader) ReadAt(p []byte, off int64) (int, error) {
	off += r.n.plan.start
	if off < 0 || off > r.n.plan.size-int64(len(p)) {
		return 0, io.ErrUnexpectedEOF
	}
	if err := r.n.read(r.ctx, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}
