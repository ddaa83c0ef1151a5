package qemuio

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// far is a protocol, "far:disk", whose server no longer answers once asked is closed: flushing waits for release, whatever its
// context, and closing for the end of its context.
type far struct {
	*mem.Driver
	desc           driver.Desc
	flushes        bool // the server answers until the disk is closed
	asked, release chan struct{}
}

// Desc implements driver.Driver.
func (f *far) Desc() *driver.Desc { return &f.desc }

// Open implements driver.Driver.
func (f *far) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	n, err := f.Driver.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	return farDisk{n.(driver.Storage), f}, nil
}

type farDisk struct {
	driver.Storage
	f *far
}

// Flush implements driver.Node.
func (d farDisk) Flush(context.Context) error {
	if !d.f.flushes {
		close(d.f.asked)
		<-d.f.release
		d.f.flushes = true
	}
	return nil
}

// Close implements driver.Node.
func (d farDisk) Close(ctx context.Context) error {
	select {
	case <-d.f.asked:
	default:
		close(d.f.asked)
		<-ctx.Done()
	}
	return nil
}

// TestInterrupted: the program ends after it was interrupted, though the server of its image answers no more: by
// itself where requests end with their context (on a busy machine the signal may come before), else by the signal.
func TestInterrupted(t *testing.T) {
	for _, flushes := range []bool{true, false} {
		f := &far{Driver: mem.New().(*mem.Driver), flushes: flushes, asked: make(chan struct{}), release: make(chan struct{})}
		f.desc = *f.Driver.Desc()
		f.desc.Name, f.desc.Schemes = "far", []string{"far"}
		f.Add("disk", mem.NewDisk(1<<20))
		ctx, cancel := context.WithCancel(t.Context())
		died := make(chan struct{})
		var out, errs bytes.Buffer
		p := &Program{Name: "qemu-io", Streams: program.Streams{Stdin: strings.NewReader(""), Stdout: &out, Data: &out, Stderr: &errs, Screen: &errs},
			Drivers: []driver.Driver{raw.New(), f}, die: func(context.Context) {
				close(died)
				close(f.release)
			}}
		ended := make(chan int)
		go func() { ended <- p.Run(ctx, []string{"-f", "raw", "-c", "flush", "far:disk"}) }()
		<-f.asked
		cancel()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatalf("answers until the end: %v: it does not end", flushes)
		}
		select {
		case <-died:
			if text := "qemu-io: Interrupted; no answer in time\n"; !strings.Contains(errs.String(), text) {
				t.Errorf("%q", errs.String())
			}
		default:
			if !flushes {
				t.Error("it did not die of the signal")
			}
		}
	}
}
