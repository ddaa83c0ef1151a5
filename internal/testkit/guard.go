package testkit

import (
	"context"
	"testing"
	"time"
)

// Guard returns a context that ends a test that hangs: shortly before the tests of its package have to be
// over, so that the test can still say where it was. How long a test takes says nothing: the machine may be busy.
func Guard(t testing.TB) context.Context {
	end := time.Now().Add(time.Hour)
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if at, ok := d.Deadline(); ok {
			end = at.Add(-15 * time.Second)
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), end)
	t.Cleanup(cancel)
	return ctx
}
