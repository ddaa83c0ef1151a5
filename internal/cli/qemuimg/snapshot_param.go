package qemuimg

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// snapshotParam says which internal snapshot is meant. The zero value is none.
type snapshotParam struct {
	either   string // an id or a name
	id, name string // given as such
}

func (s snapshotParam) given() bool { return s != snapshotParam{} }

// parseSnapshot reads the argument of -l: an id or a name, or a list of
// snapshot.id=… and snapshot.name=….
func parseSnapshot(arg string) (snapshotParam, error) {
	if !strings.HasPrefix(arg, "snapshot.") {
		return snapshotParam{either: arg}, nil
	}
	bad := fmt.Errorf("Failed in parsing snapshot param '%s'", arg)
	d := opts.Dict{}
	if err := d.ParseList(arg, ""); err != nil {
		return snapshotParam{}, bad
	}
	var s snapshotParam
	for _, k := range d.Keys() {
		switch k {
		case "snapshot.id":
			s.id = d.String(k)
		case "snapshot.name":
			s.name = d.String(k)
		default:
			return snapshotParam{}, &twoErrors{fmt.Errorf("Invalid parameter '%s'", k), bad}
		}
	}
	return s, nil
}

// twoErrors are reported one after the other, each as a message of its own.
type twoErrors struct{ first, second error }

func (e *twoErrors) Error() string { return e.first.Error() + "; " + e.second.Error() }

// loadSnapshot switches an image to an internal snapshot, if one is given.
func (c *call) loadSnapshot(img *block.Image, param snapshotParam) error {
	if !param.given() {
		return nil
	}
	s, ok := img.Node().(driver.SnapshotOpener)
	if !ok {
		return fmt.Errorf("Failed to load snapshot: Block format '%s' used by device '' does not support temporarily loading internal snapshots", img.Format())
	}
	key := param.either
	if key == "" {
		var err error
		if key, err = c.findSnapshot(img, param); err != nil {
			return fmt.Errorf("Failed to load snapshot: %w", err)
		}
	}
	if err := s.OpenSnapshot(c.ctx, key); err != nil {
		return fmt.Errorf("Failed to load snapshot: %w", err)
	}
	return nil
}

// findSnapshot returns the id of the snapshot that has the id and the name of
// param, as far as they are given.
func (c *call) findSnapshot(img *block.Image, param snapshotParam) (string, error) {
	info, err := img.Info(c.ctx)
	if err != nil {
		return "", err
	}
	for _, s := range info.Snapshots {
		if (param.id == "" || s.ID == param.id) && (param.name == "" || s.Name == param.name) {
			return s.ID, nil
		}
	}
	return "", errors.New("Can't find snapshot")
}
