package native

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
)

// TestKept counts the programs that are started for requests of one operation.
func TestKept(t *testing.T) {
	as(t, "making")
	counter := filepath.Join(t.TempDir(), "starts")
	t.Setenv(starting, counter)
	starts := func() int {
		b, err := os.ReadFile(counter)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return len(b)
	}
	connections := &driver.Connections{}
	defer connections.Close()
	env := &driver.Env{Connections: connections}
	ctx := t.Context()
	var p *Process
	open := func(size int64) *Disk {
		t.Helper()
		d, err := theirs().Open(ctx, env, size, Options{Write: true, Subject: "the disk"})
		if err != nil {
			t.Fatal(err)
		}
		p = d.p
		return d
	}
	made := false
	if err := theirs().Create(ctx, env, 0, &made); err != nil || !made {
		t.Fatal(err)
	}
	for _, size := range []int64{1 << 20, 3 << 20, 4096} {
		d := open(size)
		want := bytes.Repeat([]byte{byte(size >> 12)}, int(size))
		if _, err := d.WriteAt(ctx, want, 0); err != nil {
			t.Error(err)
		}
		got := make([]byte, size)
		if _, err := d.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, want) || d.Size() != size {
			t.Errorf("%d bytes, %v", d.Size(), err)
		}
		if err := errors.Join(d.Discard(ctx, 0, size/2), d.Flush(ctx)); err != nil {
			t.Error(err)
		}
		if x, err := d.Map(ctx, 0, size); err != nil || size > unit && (x.Kind != driver.ExtentZero || x.Length != size/2) {
			t.Errorf("%+v, %v", x, err)
		}
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
		if _, err := d.ReadAt(ctx, got, 0); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("reading what is closed: %v", err)
		}
		if err := d.Close(ctx); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("closing what is closed: %v", err)
		}
	}
	if n := starts(); n != 1 {
		t.Errorf("%d programs were started, not one", n)
	}

	// One that has ended meanwhile, and one of which a request was given up, are not used again.
	p.kill(errClosed())
	if err := open(4096).Close(ctx); err != nil || starts() != 2 {
		t.Errorf("after the end of a program: %d starts, %v", starts(), err)
	}
	d := open(4096)
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := d.Flush(ctx); err != nil {
		t.Error(err)
	}
	if err := d.request(over, "reading", func(ctx context.Context) error { return ctx.Err() }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	_ = d.Close(ctx)
	if err := open(4096).Close(ctx); err != nil || starts() != 3 {
		t.Errorf("after a request that was given up: %d starts, %v", starts(), err)
	}

	// What is not one operation shares nothing.
	d, err := theirs().Open(ctx, nil, int64(4096), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(ctx); err != nil || starts() != 4 {
		t.Errorf("another operation: %d starts, %v", starts(), err)
	}
	connections.Close()
	<-p.ended
}
