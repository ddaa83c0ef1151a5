package blkverify_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/filter/blkverify"
	"github.com/cowl-disk/cowl/format/qcow2"
)

func TestConformance(t *testing.T) {
	drivertest.RunFilter(t, drivertest.Filter{Driver: blkverify.New(), Format: qcow2.New(), Roles: []string{"raw", "test"}, NoResize: true})
}
