package iscsi_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/iscsid"
	"github.com/cowl-disk/cowl/internal/testkit/tgt"
	"github.com/cowl-disk/cowl/protocol/iscsi"
)

// TestConformance runs the suite against a target in this process.
func TestConformance(t *testing.T) {
	for _, block := range []int{512, 4096} {
		t.Run(fmt.Sprint(block), func(t *testing.T) {
			// Where the race detector makes everything slow, units are small.
			size := int64(0)
			if testkit.Race {
				size = 1<<20 + 3*512
			}
			if !testkit.Long() && (block == 512) == testkit.Race {
				t.Skip("COWL_LONG is not set")
			}
			drivertest.Run(t, drivertest.Harness{Driver: iscsi.New(), Light: true, Size: size, Make: func(t testing.TB, size int64) string {
				u := iscsid.NewUnit(int(size+4095)&^4095, block)
				u.Thin, u.Cached = true, block == 512
				s := iscsid.Start(t, iscsid.Config{Unasked: block != 512}, map[uint32]*iscsid.Unit{300: u})
				return "iscsi://" + s.Address + "/" + s.Name + "/300"
			}})
		})
	}
}

// TestConformanceTgt runs the suite against tgt.
func TestConformanceTgt(t *testing.T) {
	if !testkit.Long() {
		t.Skip("COWL_LONG is not set")
	}
	drivertest.Run(t, drivertest.Harness{Driver: iscsi.New(), Light: true, Make: func(t testing.TB, size int64) string {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, (size+4095)&^4095); err != nil {
			t.Fatal(err)
		}
		return tgt.Start(t, tgt.Unit{Number: 1, Path: path, Thin: true}).URL(1)
	}})
}
