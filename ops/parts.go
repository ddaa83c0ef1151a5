package ops

import (
	"context"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// runParts lets plan hand out parts, and workers (0: a default) do them side by side,
// until all are done or one fails. after is called when nothing runs any more. An error
// of ctx comes before one that follows from it.
func runParts(ctx context.Context, workers int, plan func(context.Context, chan<- part) error, do func(context.Context, part) error, after func()) error {
	if workers <= 0 {
		workers = min(max(2, runtime.GOMAXPROCS(0)), 8)
	}
	g, gctx := errgroup.WithContext(ctx)
	parts := make(chan part, 2*workers)
	g.Go(func() error {
		defer close(parts)
		return plan(gctx, parts)
	})
	for range workers {
		g.Go(func() error {
			for p := range parts {
				if err := do(gctx, p); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	after()
	if e := ctx.Err(); e != nil {
		return e
	}
	return err
}
