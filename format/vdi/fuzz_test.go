package vdi_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/vdi"
)

func FuzzImage(f *testing.F) { drivertest.Fuzz(f, drivertest.Harness{Driver: vdi.New()}) }
