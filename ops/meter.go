package ops

import (
	"context"
	"sync"

	"golang.org/x/time/rate"
)

// meter reports progress from several goroutines: one at a time, and never
// backwards.
type meter struct {
	mu    sync.Mutex
	f     ProgressFunc
	phase string
	done  int64
	told  int64 // the last report
	total int64
}

func newMeter(f ProgressFunc, phase string, total int64) *meter {
	m := &meter{f: f, phase: phase, total: total}
	f.report(phase, 0, total)
	return m
}

func (m *meter) set(done int64) {
	if m.f == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if done > m.done || done > m.told {
		m.done, m.told = done, done
		m.f.report(m.phase, done, m.total)
	}
}

// add counts n more bytes, and reports the sum if report is set. All counting of one
// operation is done by add or by set.
func (m *meter) add(n int64, report bool) {
	if m.f == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.done = min(m.done+n, m.total); report {
		m.told = m.done
		m.f.report(m.phase, m.done, m.total)
	}
}

// pass says that a position was reached. It reports every progressStep up to it, as QEMU
// does for operations that look at the whole disk.
func (m *meter) pass(done int64) {
	if m.f == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for next := m.done/progressStep*progressStep + progressStep; next <= done; next += progressStep {
		m.done, m.told = next, next
		m.f.report(m.phase, next, m.total)
	}
}

func (m *meter) finish() { m.set(m.total) }

// rateLimit bounds the bytes per second; nil does not.
type rateLimit struct{ l *rate.Limiter }

func newRateLimit(bytesPerSecond int64) *rateLimit {
	if bytesPerSecond <= 0 {
		return nil
	}
	// A tenth of a second may pass at once.
	burst := max(int(bytesPerSecond/10), 4096)
	return &rateLimit{rate.NewLimiter(rate.Limit(bytesPerSecond), burst)}
}

// wait blocks until n bytes may pass.
func (r *rateLimit) wait(ctx context.Context, n int64) error {
	if r == nil {
		return nil
	}
	for n > 0 {
		k := min(n, int64(r.l.Burst()))
		if err := r.l.WaitN(ctx, int(k)); err != nil {
			return err
		}
		n -= k
	}
	return nil
}
