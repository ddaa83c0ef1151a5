package ops

// Progress tells how far an operation is. Total may change while it runs.
type Progress struct {
	Done, Total int64  // bytes of the phase
	Phase       string // "map", "copy", "check" …
}

// ProgressFunc takes progress; it is called from one goroutine at a time, often,
// and must return quickly. Nil is allowed everywhere.
type ProgressFunc func(Progress)

func (f ProgressFunc) report(phase string, done, total int64) {
	if f != nil {
		f(Progress{Done: done, Total: total, Phase: phase})
	}
}
