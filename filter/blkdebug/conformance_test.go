package blkdebug_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/filter/blkdebug"
	"github.com/cowl-disk/cowl/format/qcow2"
)

func TestConformance(t *testing.T) {
	drivertest.RunFilter(t, drivertest.Filter{Driver: blkdebug.New(), Format: qcow2.New(), Roles: []string{"image"}})
}
