package quorum_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/filter/quorum"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/opts"
)

func TestConformance(t *testing.T) {
	drivertest.RunFilter(t, drivertest.Filter{Driver: quorum.New(), Format: qcow2.New(), Roles: []string{"children.0", "children.1", "children.2"}, Options: opts.Dict{"vote-threshold": "2"}, NoResize: true})
}
