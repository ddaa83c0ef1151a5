package compress_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/filter/compress"
	"github.com/cowl-disk/cowl/format/qcow2"
)

func TestConformance(t *testing.T) {
	drivertest.RunFilter(t, drivertest.Filter{Driver: compress.New(), Format: qcow2.New()})
}
