package copyonread_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/filter/copyonread"
	"github.com/cowl-disk/cowl/format/qcow2"
)

func TestConformance(t *testing.T) {
	drivertest.RunFilter(t, drivertest.Filter{Driver: copyonread.New(), Format: qcow2.New()})
}
