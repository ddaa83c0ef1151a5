package ops

import (
	"context"
	"runtime"
	"sync"
)

// runParts lets plan hand out parts, and workers (0: a default) do them side by side as
// inOrder does. after is called when nothing runs any more.
func runParts(ctx context.Context, workers int, plan func(context.Context, func(part) error) error, do func(context.Context, part) error, after func()) error {
	if workers <= 0 {
		workers = min(max(2, runtime.GOMAXPROCS(0)), 8)
	}
	err := inOrder(ctx, workers, 2*workers, plan, do)
	after()
	return err
}

// inOrder lets plan hand out items, of which queue may wait, and workers do them side by
// side, until all are done. Where one fails, those behind it are given up and those before it
// are done nevertheless: the error is that of the first item of the plan that fails, whatever
// the order of work. An error of plan counts for what comes after the last item. An error of
// ctx comes before one that follows from it. Nothing runs any more when inOrder returns.
func inOrder[T any](ctx context.Context, workers, queue int, plan func(context.Context, func(T) error) error, do func(context.Context, T) error) error {
	type numbered struct {
		seq  uint64
		item T
	}
	items := make(chan numbered, queue)
	planned, stop := context.WithCancel(ctx)
	defer stop()
	f := firstFailure{running: map[uint64]context.CancelFunc{}, stop: stop}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(items)
		var seq uint64
		err := plan(planned, func(item T) error {
			select {
			case items <- numbered{seq, item}:
				seq++
				return nil
			case <-planned.Done():
				return planned.Err()
			}
		})
		if err != nil {
			f.fail(seq, err)
		}
	})
	for range workers {
		wg.Go(func() {
			for n := range items {
				f.do(ctx, n.seq, func(ctx context.Context) error { return do(ctx, n.item) })
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.err
}

// firstFailure finds out which of several numbered calls, that run side by side, fails with
// the lowest number.
type firstFailure struct {
	stop context.CancelFunc // called when one has failed: no higher numbers are needed

	mu      sync.Mutex
	err     error
	seq     uint64 // of the call that failed with err
	running map[uint64]context.CancelFunc
}

// do calls f, unless a call with a lower number has failed. Its context ends when one fails.
func (e *firstFailure) do(ctx context.Context, seq uint64, f func(context.Context) error) {
	e.mu.Lock()
	if e.err != nil && e.seq < seq {
		e.mu.Unlock()
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e.running[seq] = cancel
	e.mu.Unlock()
	err := f(ctx)
	e.mu.Lock()
	delete(e.running, seq)
	e.mu.Unlock()
	if err != nil {
		e.fail(seq, err)
	}
}

// fail notes an error, and gives up the calls with higher numbers.
func (e *firstFailure) fail(seq uint64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil && e.seq <= seq {
		return
	}
	e.err, e.seq = err, seq
	e.stop()
	for n, cancel := range e.running {
		if n > seq {
			cancel()
		}
	}
}
