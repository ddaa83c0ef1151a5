package sheepdog_test

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/sheepd"
	"github.com/cowl-disk/cowl/protocol/sheepdog"
)

// harness is a VDI for each disk.
func harness(address string) drivertest.Harness {
	var made atomic.Int64
	size := int64(0)
	if testkit.Race {
		size = 1<<20 + 3*512 // everything is slow there
	}
	return drivertest.Harness{Driver: sheepdog.New(), Light: true, Size: size, NewName: func(testing.TB) string {
		return fmt.Sprintf("sheepdog://%s/disk%d-%d", address, time.Now().UnixNano(), made.Add(1))
	}}
}

// TestConformance runs the suite against a cluster in this process.
func TestConformance(t *testing.T) {
	for i, cfg := range []sheepd.Config{{Locks: true, Trim: true, Shift: 20}, {}, {Old: true, Locks: true}} {
		if testkit.Race && i > 0 || !testkit.Sample(i, 2) {
			continue
		}
		t.Run(fmt.Sprintf("%+v", cfg), func(t *testing.T) {
			c := sheepd.NewCluster(cfg)
			drivertest.Run(t, harness(c.Start(t).Address))
			if n := c.Locks(); n > 0 {
				t.Errorf("%d locks are still held", n)
			}
		})
	}
}

// TestConformanceSheep runs the suite against a cluster of real servers.
func TestConformanceSheep(t *testing.T) {
	address := os.Getenv("COWL_SHEEP")
	if address == "" {
		t.Skip("COWL_SHEEP does not name a server of a Sheepdog cluster, as host:port")
	}
	drivertest.Run(t, harness(address))
}
