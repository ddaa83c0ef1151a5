package ops_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// forgetful is a protocol whose server loses, some times, what it had taken.
type forgetful struct {
	*mem.Driver
	desc  driver.Desc
	times int
}

// Desc implements driver.Driver.
func (f *forgetful) Desc() *driver.Desc { return &f.desc }

// Open implements driver.Driver.
func (f *forgetful) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	n, err := f.Driver.Open(ctx, req)
	if err != nil || f.times == 0 {
		return n, err
	}
	f.times--
	return restarting{n.(driver.Storage)}, nil
}

// restarting is a disk whose server is restarted.
type restarting struct{ driver.Storage }

// Close implements driver.Node.
func (r restarting) Close(ctx context.Context) error {
	return errors.Join(driver.Errorf(driver.ErrForgotten, "the server was restarted"), r.Storage.Close(ctx))
}

// TestCopyAgain: where the server of a new target loses what was copied, it is copied again from
// the start, some times; not where the source cannot be read again.
func TestCopyAgain(t *testing.T) {
	f := &forgetful{Driver: mem.New().(*mem.Driver)}
	f.desc = *f.Driver.Desc()
	f.desc.Name, f.desc.Schemes = "forgetful", []string{"forgetful"}
	w := newWorld(t)
	w.reg = block.NewRegistry(append(drivers.All(), f)...)
	for _, d := range w.reg.Drivers() {
		if m, ok := d.(*mem.Driver); ok && d != driver.Driver(f) {
			w.mem = m
		}
	}
	source := w.create("source", "raw", 1<<20, nil)
	want := w.fill(source, 3)
	for _, c := range []struct {
		what  string
		times int
		read  bool // the source is a stream
		tries int  // the copy succeeds with
	}{{"never", 0, false, 1}, {"once", 1, false, 2}, {"three times", 3, false, 4}, {"always", 100, false, 0}, {"a stream", 1, true, 0}} {
		f.times = c.times
		_ = f.Delete(t.Context(), "disk") // of the case before
		sum := sha256.New()
		warnings := 0
		job := ops.CopyJob{Sources: []*block.Image{source}, Registry: w.reg, Checksum: sum, Warn: func(string) { warnings++ },
			New: &ops.CreateJob{Registry: w.reg, Filename: "forgetful:disk", Format: "raw", Gate: driver.DenyAll}}
		if c.read {
			job.Sources, job.Checksum, job.Reader, job.ReaderSize = nil, nil, bytes.NewReader(want), int64(len(want))
		}
		_, err := ops.Copy(t.Context(), job)
		if c.tries == 0 {
			if !errors.Is(err, driver.ErrForgotten) || f.Disk("disk") != nil {
				t.Errorf("%s: %v, the target is left: %v", c.what, err, f.Disk("disk") != nil)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		got := make([]byte, len(want))
		if _, err := f.Disk("disk").ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: another content (%v)", c.what, err)
		}
		if exact := sha256.Sum256(want); !bytes.Equal(sum.Sum(nil), exact[:]) || warnings != c.tries-1 {
			t.Errorf("%s: %d warnings, the checksum is right: %v", c.what, warnings, bytes.Equal(sum.Sum(nil), exact[:]))
		}
	}
}
