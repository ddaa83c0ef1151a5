package qemuimg

import (
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// snapshotName reads the argument of -l: an id or a name, or snapshot.id=… or
// snapshot.name=….
func snapshotName(arg string) (string, error) {
	if !strings.HasPrefix(arg, "snapshot.") {
		return arg, nil
	}
	bad := fmt.Errorf("Failed in parsing snapshot param '%s'", arg)
	d := opts.Dict{}
	if err := d.ParseList(arg, ""); err != nil {
		return "", bad
	}
	name := ""
	for _, k := range d.Keys() {
		switch k {
		case "snapshot.id", "snapshot.name":
			if name != "" && name != d.String(k) {
				return "", fmt.Errorf("%w: give either the id or the name", bad)
			}
			name = d.String(k)
		default:
			return "", &twoErrors{fmt.Errorf("Invalid parameter '%s'", k), bad}
		}
	}
	return name, nil
}

// twoErrors are reported one after the other, each as a message of its own.
type twoErrors struct{ first, second error }

func (e *twoErrors) Error() string { return e.first.Error() + "; " + e.second.Error() }

// loadSnapshot switches an image to an internal snapshot; "" is none.
func (c *call) loadSnapshot(img *block.Image, name string) error {
	if name == "" {
		return nil
	}
	s, ok := img.Node().(driver.SnapshotOpener)
	if !ok {
		return fmt.Errorf("Failed to load snapshot: Block format '%s' used by device '' does not support temporarily loading internal snapshots", img.Format())
	}
	if err := s.OpenSnapshot(c.ctx, name); err != nil {
		return fmt.Errorf("Failed to load snapshot: %w", err)
	}
	return nil
}
