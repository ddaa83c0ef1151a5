package ops

import (
	"context"
	"errors"
	"testing"
)

// TestPlanIsStopped: a plan whose next item takes until its context ends does not hold up an error of one before.
func TestPlanIsStopped(t *testing.T) {
	want := errors.New("the first")
	err := inOrder(t.Context(), 2, 2, func(ctx context.Context, out func(int) error) error {
		if err := out(0); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}, func(context.Context, int) error { return want })
	if err != want {
		t.Errorf("%v", err)
	}
}

// TestCancelledInOrder: where the caller gives up, that is the error, not what came of it.
func TestCancelledInOrder(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := inOrder(ctx, 2, 2, func(_ context.Context, out func(int) error) error { return out(0) }, func(ctx context.Context, _ int) error {
		cancel()
		<-ctx.Done()
		return errors.New("cut short")
	})
	if err != context.Canceled {
		t.Errorf("%v", err)
	}
}
