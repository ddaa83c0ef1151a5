package qemuimg

import (
	"io"

	"github.com/cowl-disk/cowl/internal/cli/render"
)

// startProgress shows progress as -p asks for it, and a line whenever a signal
// asks for one. Under our own name there is a bar on a terminal without being asked
// for. Call stop at the end.
func (c *call) startProgress(minStep float64) (p *render.Progress, stop func(failed bool)) {
	mode := c.progress
	switch {
	case c.quiet:
		mode = render.ProgressOff
	case mode == render.ProgressOff && c.cowl() && c.Terminal:
		mode = render.ProgressBar
	}
	p = render.NewProgress(c.progressWriter(mode), mode, minStep)
	// The signal must be handled before the first output: its reader may send one
	// at once.
	unhook := onInfoSignal(p.Signal)
	p.Start()
	return p, func(failed bool) {
		unhook()
		p.Done(failed)
	}
}

func (c *call) progressWriter(mode render.ProgressMode) io.Writer {
	if c.streaming || mode == render.ProgressOff || mode == render.ProgressBar {
		return c.Screen
	}
	return c.Stdout
}
