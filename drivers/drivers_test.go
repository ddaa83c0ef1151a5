package drivers_test

import (
	"testing"

	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/opts"
)

// TestSchemas reads the declared options of all drivers, which otherwise happens when they are used first.
func TestSchemas(*testing.T) {
	for _, d := range drivers.All() {
		desc := d.Desc()
		for _, s := range []*opts.Schema{desc.OpenOptions, desc.CreateOptions, desc.AmendOptions} {
			if s != nil {
				s.List() // it panics where a declaration is wrong
			}
		}
	}
}
