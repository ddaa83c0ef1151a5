package nfs

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/ganesha"
)

func openDisk(t *testing.T, name string) *node {
	t.Helper()
	given, err := parseName(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := New().Open(t.Context(), &driver.OpenRequest{Options: given, Access: driver.Access{Write: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close(context.Background()) })
	return n.(*node)
}

// TestUnmeasured: after a change that was given up the length is asked for with the next change, and by nobody who
// has given up.
func TestUnmeasured(t *testing.T) {
	if !testkit.WithHosts(t, "127.0.0.1 localhost\n") {
		return
	}
	s := ganesha.Start(t, t.TempDir(), "Squash = No_Root_Squash;")
	name := "nfs://127.0.0.1" + s.Dir + "/disk?version=3"
	if err := New().(driver.Creator).Create(t.Context(), &driver.CreateRequest{Filename: name, Size: 4096}); err != nil {
		t.Fatal(err)
	}
	n, other := openDisk(t, name), openDisk(t, name)
	if err := other.Resize(t.Context(), 8192, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n.sizeMu.Lock()
	n.remeasure(ctx)
	n.sizeMu.Unlock()
	if n.Size() != 4096 {
		t.Errorf("%d bytes: the server was asked", n.Size())
	}
	if _, err := n.WriteAt(t.Context(), []byte{1}, 0); err != nil || n.Size() != 8192 {
		t.Errorf("%d bytes, %v", n.Size(), err)
	}
	(&node{}).remeasure(ctx) // which has no server to ask
}

// TestInterrupted: what is given up while the server does not answer ends, well before the server is given up.
func TestInterrupted(t *testing.T) {
	if !testkit.WithHosts(t, "127.0.0.1 localhost\n") {
		return
	}
	s := ganesha.Start(t, t.TempDir(), "Squash = No_Root_Squash;")
	reg := block.NewRegistry(New(), qcow2.New())
	for version, dir := range map[string]string{"3": s.Dir, "4": "/export"} {
		name := "nfs://127.0.0.1" + dir + "/disk" + version + "?timeout=600&version=" + version
		_, err := block.Make(t.Context(), reg, block.CreateRequest{Filename: name, Format: "qcow2", Size: 64 << 20, Gate: driver.DenyAll})
		if err != nil {
			t.Fatal(err)
		}
		disk, err := block.Open(t.Context(), reg, block.Source{Filename: name, Format: "qcow2"}, block.OpenOptions{Write: true, Gate: driver.DenyAll})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		s.Pause(t)
		ended := make(chan error, 1)
		go func() {
			// More than what is on its way without an answer.
			_, err := disk.WriteAt(ctx, make([]byte, 48<<20), 0)
			last, done := driver.Farewell(ctx, driver.ClosingTime)
			_ = disk.Close(last)
			done()
			_, created := block.Make(ctx, reg, block.CreateRequest{Filename: name + "x", Format: "qcow2", Size: 1 << 20, Gate: driver.DenyAll})
			if !errors.Is(created, context.Canceled) {
				err = errors.Join(err, created)
			}
			ended <- err
		}()
		cancel()
		select {
		case err := <-ended:
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("version %s: %v", version, err)
			}
		case <-time.After(time.Minute):
			t.Errorf("version %s: it does not end", version)
		}
		s.Continue(t)
	}
}
