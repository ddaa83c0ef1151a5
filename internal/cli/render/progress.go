package render

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/ops"
)

// ProgressMode says how progress is shown.
type ProgressMode uint8

// The ways to show progress.
const (
	ProgressOff  ProgressMode = iota // only a line when a signal asks for one
	ProgressText                     // "    (12.34/100%)\r"
	ProgressJSON                     // one object a line
	ProgressBar                      // a bar, for a terminal alone
)

// Progress shows how far an operation is. It may be used by several goroutines.
type Progress struct {
	w       io.Writer
	mode    ProgressMode
	minStep float64
	now     func() time.Time

	mu       sync.Mutex
	started  time.Time
	current  ops.Progress
	percent  float64
	shown    float64
	shownAt  time.Time
	finished bool
	bar      bar
}

// NewProgress shows progress on w, in steps of at least minStep percent. Nothing
// is shown before Start.
func NewProgress(w io.Writer, mode ProgressMode, minStep float64) *Progress {
	p := &Progress{w: w, mode: mode, minStep: minStep, now: time.Now, bar: bar{w: w}}
	p.started = p.now()
	return p
}

// Start shows that the work begins.
func (p *Progress) Start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == ProgressText {
		p.text()
	}
}

// Report is an ops.ProgressFunc.
func (p *Progress) Report(u ops.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = u
	p.percent = 100
	if u.Total > 0 {
		p.percent = float64(u.Done) * 100 / float64(u.Total)
	}
	switch p.mode {
	case ProgressText:
		if p.percent-p.shown >= p.minStep || p.percent == 100 && p.shown != 100 {
			p.shown = p.percent
			p.text()
		}
	case ProgressJSON:
		// Often enough to look alive, seldom enough not to slow the work down.
		if t := p.now(); t.Sub(p.shownAt) >= 200*time.Millisecond {
			p.shownAt = t
			p.object()
		}
	case ProgressBar:
		p.bar.begin(u.Total, u.Phase)
		if t := p.now(); t.Sub(p.started) >= barDelay && t.Sub(p.shownAt) >= barPace {
			p.shownAt = t
			p.bar.show(u.Done)
		}
	}
}

// Signal shows a line now, whatever the mode: the answer to SIGUSR1.
func (p *Progress) Signal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.mode {
	case ProgressJSON:
		p.object()
	case ProgressBar:
		p.bar.clear()
		fmt.Fprintf(p.w, "    (%3.2f/100%%)\n", p.percent)
	default:
		fmt.Fprintf(p.w, "    (%3.2f/100%%)\n", p.percent)
	}
}

// Done shows that all is done and ends the line; failed leaves the numbers as
// they are.
func (p *Progress) Done(failed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.finished {
		return
	}
	p.finished = true
	if !failed {
		p.percent = 100
		p.current.Done = p.current.Total
	}
	switch p.mode {
	case ProgressText:
		if !failed {
			p.text()
		}
		fmt.Fprintln(p.w)
	case ProgressJSON:
		p.object()
	case ProgressBar:
		p.bar.clear()
	}
}

func (p *Progress) text() { fmt.Fprintf(p.w, "    (%3.2f/100%%)\r", p.percent) }

func (p *Progress) object() {
	elapsed := p.now().Sub(p.started).Seconds()
	rate := int64(0)
	if elapsed > 0 {
		rate = int64(float64(p.current.Done) / elapsed)
	}
	line, _ := json.Marshal(struct {
		Done  int64  `json:"done"`
		Total int64  `json:"total"`
		Rate  int64  `json:"bytes_per_second"`
		Phase string `json:"phase"`
	}{p.current.Done, p.current.Total, rate, p.current.Phase})
	fmt.Fprintf(p.w, "%s\n", line)
}
