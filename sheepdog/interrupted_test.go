package sheepdog_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit/sheepd"
	"github.com/cowl-disk/cowl/sheepdog"
)

// Operations of the protocol.
const (
	opNewVDI  = 0x11
	opLock    = 0x12
	opRelease = 0x13
)

// TestInterrupted: a server that answers no more does not hold up what was given up, whatever was under way then.
func TestInterrupted(t *testing.T) {
	for name, c := range map[string]struct {
		from byte // the operation from which on nothing is answered
		do   func(ctx context.Context, v *sheepdog.VDI) error
	}{
		"the lock is given back": {opRelease, func(ctx context.Context, v *sheepdog.VDI) error { return v.Close(ctx) }},
		"a snapshot is taken":    {opNewVDI, func(ctx context.Context, v *sheepdog.VDI) error { _, err := v.TakeSnapshot(ctx, "a"); return err }},
		"a snapshot was taken":   {opLock, func(ctx context.Context, v *sheepdog.VDI) error { _, err := v.TakeSnapshot(ctx, "a"); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, giveUp := context.WithCancel(t.Context())
			var armed, silent atomic.Bool
			var releases atomic.Int32
			cluster := sheepd.NewCluster(sheepd.Config{Shift: 20, Locks: true, Intercept: func(r *sheepd.Request) sheepd.Action {
				if r.Op == opRelease {
					releases.Add(1)
				}
				if armed.Load() && r.Op == c.from {
					silent.Store(true)
					giveUp()
				}
				if silent.Load() {
					return sheepd.Action{Do: sheepd.Forget}
				}
				return sheepd.Action{}
			}})
			client := connect(t, cluster.Start(t).Address, time.Minute)
			must(t, client.Create(ctx, sheepdog.New{Name: "disk", Size: object}))
			v := open(t, client, sheepdog.Open{Name: "disk", Lock: true})
			armed.Store(true)
			ended := make(chan error, 1)
			go func() {
				err := c.do(ctx, v)
				if c.from != opRelease {
					err = errors.Join(err, v.Close(ctx))
				}
				ended <- err
			}()
			select {
			case err := <-ended:
				if c.from != opRelease && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			case <-time.After(50 * time.Second): // the server is waited for for a minute
				t.Fatal("it does not end")
			}
			// A message that is cut off while it is sent ends the connection, and no other one comes about: the lock
			// stays then.
			if c.from == opRelease && releases.Load() == 0 {
				t.Error("the lock is not given back")
			}
		})
	}
}
