package blklogwrites_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/filter/blklogwrites"
	"github.com/cowl-disk/cowl/format/qcow2"
)

func TestConformance(t *testing.T) {
	drivertest.RunFilter(t, drivertest.Filter{Driver: blklogwrites.New(), Format: qcow2.New(), Roles: []string{"file", "log"}, Raw: map[string]bool{"log": true}})
}
