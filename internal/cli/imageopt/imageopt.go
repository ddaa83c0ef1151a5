// Package imageopt reads what several programs take on their command lines for
// opening images: cache modes, internal snapshots, and the warning about a format
// that was guessed.
package imageopt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// CacheMode reads a cache mode.
func CacheMode(name string) (driver.Cache, bool) {
	switch name {
	case "none", "off":
		return driver.Cache{Direct: true}, true
	case "directsync":
		return driver.Cache{Direct: true, WriteThrough: true}, true
	case "writeback":
		return driver.Cache{}, true
	case "writethrough":
		return driver.Cache{WriteThrough: true}, true
	case "unsafe":
		return driver.Cache{NoFlush: true}, true
	}
	return driver.Cache{}, false
}

// ProbedRaw is the warning for an image that is to be written without its format
// given.
func ProbedRaw(name string) string {
	return fmt.Sprintf(`WARNING: Image format was not specified for '%s' and probing guessed raw.
         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.
         Specify the 'raw' format explicitly to remove the restrictions.
`, name)
}

// Snapshot says which internal snapshot is meant. The zero value is none.
type Snapshot struct {
	Either   string // an id or a name
	ID, Name string // given as such
}

// Given says whether a snapshot is meant.
func (s Snapshot) Given() bool { return s != Snapshot{} }

// ParseSnapshot reads the argument of -l: an id or a name, or a list of
// snapshot.id=… and snapshot.name=….
func ParseSnapshot(arg string) (Snapshot, error) {
	if !strings.HasPrefix(arg, "snapshot.") {
		return Snapshot{Either: arg}, nil
	}
	bad := fmt.Errorf("Failed in parsing snapshot param '%s'", arg)
	d := opts.Dict{}
	if err := d.ParseList(arg, ""); err != nil {
		return Snapshot{}, bad
	}
	var s Snapshot
	for _, k := range d.Keys() {
		switch k {
		case "snapshot.id":
			s.ID = d.String(k)
		case "snapshot.name":
			s.Name = d.String(k)
		default:
			return Snapshot{}, &TwoErrors{fmt.Errorf("Invalid parameter '%s'", k), bad}
		}
	}
	return s, nil
}

// TwoErrors are reported one after the other, each as a message of its own.
type TwoErrors struct{ First, Second error }

func (e *TwoErrors) Error() string { return e.First.Error() + "; " + e.Second.Error() }

// Load switches an image to the snapshot, if one is given.
func (s Snapshot) Load(ctx context.Context, img *block.Image) error {
	if !s.Given() {
		return nil
	}
	o, ok := img.Tree().Node().(driver.SnapshotOpener)
	if !ok {
		return fmt.Errorf("Failed to load snapshot: Block format '%s' used by device '' does not support temporarily loading internal snapshots", img.Format())
	}
	key := s.Either
	if key == "" {
		var err error
		if key, err = s.find(ctx, img); err != nil {
			return fmt.Errorf("Failed to load snapshot: %w", err)
		}
	}
	if err := o.OpenSnapshot(ctx, key); err != nil {
		return fmt.Errorf("Failed to load snapshot: %w", err)
	}
	return nil
}

// find returns the id of the snapshot that has the id and the name, as far as they
// are given.
func (s Snapshot) find(ctx context.Context, img *block.Image) (string, error) {
	list, _, err := img.Snapshots().List(ctx)
	if err != nil {
		return "", err
	}
	for _, x := range list {
		if (s.ID == "" || x.ID == s.ID) && (s.Name == "" || x.Name == s.Name) {
			return x.ID, nil
		}
	}
	return "", errors.New("Can't find snapshot")
}
