package qemuimg

import (
	"context"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// losing is a protocol whose connections are lost with the context of what is asked of them.
type losing struct {
	*mem.Driver
	cancel context.CancelFunc // called by the next read; nil: not yet
}

func (d *losing) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	n, err := d.Driver.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	return losingNode{n.(driver.Storage), d}, nil
}

type losingNode struct {
	driver.Storage
	d *losing
}

func (n losingNode) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if n.d.cancel != nil {
		n.d.cancel()
		return 0, syscall.EIO
	}
	return n.Storage.ReadAt(ctx, p, off)
}

// TestInterruptedCheck: who interrupts a check is told of that, not of a connection that is lost with it.
func TestInterruptedCheck(t *testing.T) {
	d := &losing{Driver: mem.New().(*mem.Driver)}
	p, _, errs := testProgram("cowl")
	p.Drivers = []driver.Driver{d, qcow2.New()}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := p.newCall(ctx)
	if err := block.Create(ctx, c.reg, block.CreateRequest{Filename: "mem:disk", Format: "qcow2", Size: 1 << 20, Gate: driver.AllowAll}); err != nil {
		t.Fatal(err)
	}
	img, err := c.openSource(ctx, block.Source{Filename: "mem:disk", Format: "qcow2"}, "mem:disk", block.OpenOptions{Use: block.Use{Check: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(t.Context())
	d.cancel = cancel
	if code := c.check(img, driver.CheckFix{}); code != 1 || errs.String() != "cowl: Interrupted\n" {
		t.Errorf("exit code %d, %q", code, errs.String())
	}
}
