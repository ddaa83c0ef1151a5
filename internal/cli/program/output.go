package program

import (
	"io"

	"github.com/cowl-disk/cowl/internal/cli/render"
)

// output drops what is written after its reader has gone.
type output struct{ w io.Writer }

// tolerate returns a writer that takes a reader that has gone for one that does not
// care: writing succeeds.
func tolerate(w io.Writer) io.Writer { return output{w} }

func (o output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil && brokenPipe(err) {
		return len(p), nil
	}
	return n, err
}

// messages escapes what would control a terminal: messages quote names that images and
// servers choose. Each call writes whole lines.
type messages struct{ w io.Writer }

func (m messages) Write(p []byte) (int, error) {
	if _, err := io.WriteString(m.w, render.PrintableLines(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
