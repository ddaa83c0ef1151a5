package preallocate_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/filter/preallocate"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/opts"
)

func TestConformance(t *testing.T) {
	drivertest.RunFilter(t, drivertest.Filter{Driver: preallocate.New(), Format: qcow2.New(), Options: opts.Dict{"prealloc-size": "0"}})
}
