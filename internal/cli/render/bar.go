package render

import (
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

const (
	// barDelay is how long work goes on before a bar is drawn: most of it is done
	// before.
	barDelay = 500 * time.Millisecond
	// barPace is how often a bar is drawn again.
	barPace  = 100 * time.Millisecond
	barWidth = 24
)

// bar draws progress for people: how much is done, at what rate, and how long the rest
// will take.
type bar struct {
	w     io.Writer
	drawn *progressbar.ProgressBar
	total int64
	phase string
	// visible: something is on the screen.
	visible bool
}

// begin makes a bar for work that begins, unless there is one for it; nothing is drawn
// yet. A total of 0 is not known.
func (b *bar) begin(total int64, phase string) {
	if b.drawn != nil && total == b.total && phase == b.phase {
		return
	}
	b.clear()
	b.total, b.phase = total, phase
	if total <= 0 {
		total = -1
	}
	b.drawn = progressbar.NewOptions64(total, progressbar.OptionSetWriter(b.w), progressbar.OptionSetDescription(phase),
		progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true), progressbar.OptionShowTotalBytes(true),
		progressbar.OptionSetPredictTime(true), progressbar.OptionSetWidth(barWidth), progressbar.OptionSetElapsedTime(false), progressbar.OptionClearOnFinish())
	b.drawn.StartWithoutRender()
}

// show draws the bar with done bytes.
func (b *bar) show(done int64) {
	if b.total > 0 {
		done = min(done, b.total)
	}
	// The bar is for looks: what cannot be drawn is left out.
	_ = b.drawn.Set64(done)
	b.visible = true
}

// clear takes the bar off the screen.
func (b *bar) clear() {
	if b.visible {
		_ = b.drawn.Clear()
	}
	b.drawn, b.visible = nil, false
}
