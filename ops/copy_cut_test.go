package ops_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// stopping is a protocol whose server answers no more when a disk is closed; then the work is given up.
type stopping struct {
	*mem.Driver
	desc   driver.Desc
	giveUp context.CancelFunc
	fails  bool // closing says that it was cut short
	gone   bool // the server does not come back
}

// Desc implements driver.Driver.
func (s *stopping) Desc() *driver.Desc { return &s.desc }

// Open implements driver.Driver.
func (s *stopping) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	n, err := s.Driver.Open(ctx, req)
	if err != nil || s.giveUp == nil {
		return n, err
	}
	return &stoppingDisk{n.(driver.Storage), s}, nil
}

// Delete implements driver.Deleter.
func (s *stopping) Delete(ctx context.Context, name string) error {
	if s.gone {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Driver.Delete(ctx, strings.TrimPrefix(name, "stopping:"))
}

type stoppingDisk struct {
	driver.Storage
	s *stopping
}

// Close implements driver.Node.
func (d *stoppingDisk) Close(ctx context.Context) error {
	d.s.giveUp()
	<-ctx.Done()
	if d.s.fails {
		return ctx.Err()
	}
	return nil
}

// TestCopyCutShort: a copy that is given up while its target is closed has failed, whatever closing says, and the
// target is removed, or what remains is told with its reason.
func TestCopyCutShort(t *testing.T) {
	s := &stopping{Driver: mem.New().(*mem.Driver)}
	s.desc = *s.Driver.Desc()
	s.desc.Name, s.desc.Schemes = "stopping", []string{"stopping"}
	w := newWorld(t)
	w.reg = block.NewRegistry(append(drivers.All(), s)...)
	for _, d := range w.reg.Drivers() {
		if m, ok := d.(*mem.Driver); ok {
			w.mem = m
		}
	}
	source := w.create("source", "raw", 1<<20, nil)
	w.fill(source, 3)
	for _, fails := range []bool{false, true} {
		for _, gone := range []bool{false, true} {
			s.giveUp, s.gone = nil, false
			_ = s.Delete(t.Context(), "disk") // of the case before
			ctx, cancel := context.WithCancel(t.Context())
			s.giveUp, s.fails, s.gone = cancel, fails, gone
			_, err := ops.Copy(ctx, ops.CopyJob{Sources: []*block.Image{source}, Registry: w.reg,
				New: &ops.CreateJob{Registry: w.reg, Filename: "stopping:disk", Format: "raw", Gate: driver.DenyAll}})
			var failed *ops.CopyError
			if !errors.Is(err, context.Canceled) || !errors.As(err, &failed) {
				t.Fatalf("closing fails: %v, gone: %v: %v", fails, gone, err)
			}
			const want = "'disk' is incomplete and could not be removed: no answer in time"
			switch {
			case !gone && (failed.Remains != nil || s.Disk("disk") != nil):
				t.Errorf("closing fails: %v: the target is left: %v", fails, failed.Remains)
			case gone && (failed.Remains == nil || failed.Remains.Error() != want || errors.Is(failed.Remains, context.Canceled)):
				t.Errorf("closing fails: %v: what remains is told as: %v", fails, failed.Remains)
			}
		}
	}
}
