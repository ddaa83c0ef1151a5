package sheepdog

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit/sheepd"
)

// TestBatchOfReplaced: entries that wait to be saved when the VDI is found to be a snapshot are
// not those of the one that goes on.
func TestBatchOfReplaced(t *testing.T) {
	cluster := sheepd.NewCluster(sheepd.Config{Shift: 20})
	address := cluster.Start(t).Address
	c, err := Connect(t.Context(), Config{Timeout: time.Minute, Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Create(t.Context(), New{Name: "disk", Size: 8 << 20}); err != nil {
		t.Fatal(err)
	}
	v, err := c.Open(t.Context(), Open{Name: "disk"})
	if err != nil {
		t.Fatal(err)
	}
	v.mu.Lock()
	v.saving = true // an earlier batch is on its way
	b, ino := v.save(), v.ino
	v.mu.Unlock()
	cluster.Take("disk", "x")
	if err := v.follow(t.Context(), ino, ReadOnly); err != nil || v.inode().vdi == ino.vdi {
		t.Fatalf("VDI %#x goes on as %#x: %v", ino.vdi, v.inode().vdi, err)
	}
	select {
	case <-b.done:
		if !errors.Is(b.err, errMoved) {
			t.Errorf("the batch ended with %v", b.err)
		}
	default:
		t.Error("the batch waits to be saved in the other VDI")
	}
	v.mu.Lock()
	v.saving = false
	v.mu.Unlock()
	if err := v.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
