package ops

import "time"

// Progress says how far an operation is. Total may change while it runs.
type Progress struct {
	Done, Total int64  // bytes of the phase
	Phase       string // "map", "copy", "check" …
	// Rate is in bytes per second, and Remaining what is left of the phase at that rate.
	// Both are 0 where they are not known: see Paced.
	Rate      int64
	Remaining time.Duration
}

// ProgressFunc takes progress; it is called from one goroutine at a time, at every step,
// and must return quickly. Paced reduces the calls. Nil is allowed
// everywhere.
type ProgressFunc func(Progress)

func (f ProgressFunc) report(phase string, done, total int64) {
	if f != nil {
		f(Progress{Done: done, Total: total, Phase: phase})
	}
}
