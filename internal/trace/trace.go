// Package trace prints events of the block layer, of formats, protocols and NBD
// for debugging: the option --trace. An event that is off costs
// one atomic load.
//
// Events have the names and the form that QEMU gives to the same occasions, without
// its addresses of structures in memory. They are declared in one table (events.go); where
// one happens, one line reports it:
//
//	trace.BdrvCoPreadv.Log(off, n)
//
// Which events are on belongs to the process. It is the one thing in this module that
// is: what it concerns runs through every layer, and a handle for it in each of them
// would cost more than the tracing. Libraries leave all events off.
//
// All functions may be called concurrently.
package trace

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
)

var (
	enabled [numEvents]atomic.Bool

	mu  sync.Mutex
	out io.Writer = os.Stderr
)

// String returns the name of the event.
func (e Event) String() string { return events[e].name }

// Log prints the event if it is on. The arguments are those of its form, in order.
func (e Event) Log(args ...int64) {
	if enabled[e].Load() {
		e.print(args)
	}
}

// LogText is Log for events whose form takes text.
func (e Event) LogText(args ...string) {
	if enabled[e].Load() {
		e.printText(args)
	}
}

//go:noinline
func (e Event) print(args []int64) {
	values := make([]any, len(args))
	for i, a := range args {
		values[i] = a
	}
	e.write(values)
}

//go:noinline
func (e Event) printText(args []string) {
	values := make([]any, len(args))
	for i, a := range args {
		values[i] = a
	}
	e.write(values)
}

func (e Event) write(values []any) {
	line := events[e].name
	if form := events[e].form; form != "" {
		line += " " + fmt.Sprintf(form, values...)
	}
	mu.Lock()
	defer mu.Unlock()
	_, _ = io.WriteString(out, line+"\n")
}

// SetOutput sets where events are printed; at first that is the standard error.
func SetOutput(w io.Writer) {
	mu.Lock()
	defer mu.Unlock()
	out = w
}

// Names returns the names of all events.
func Names() []string {
	names := make([]string, 0, numEvents)
	for _, e := range events {
		names = append(names, e.name)
	}
	return names
}

// Set turns the events on or off whose names match a pattern, in which * matches
// any characters and ? for one. With a leading "-" the pattern turns off. It
// returns false for a name without such characters that no event has.
func Set(pattern string) bool {
	pattern, off := strings.CutPrefix(pattern, "-")
	found := strings.ContainsAny(pattern, "*?")
	for i, e := range events {
		if ok, err := path.Match(pattern, e.name); err == nil && ok {
			enabled[i].Store(!off)
			found = true
		}
	}
	return found
}

// SetFrom reads patterns, one a line; empty lines and those that begin with # are
// left out. missing is called for names that no event has, with the number of
// the line.
func SetFrom(r io.Reader, missing func(line int, name string)) error {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		if !Set(text) {
			missing(n, strings.TrimPrefix(text, "-"))
		}
	}
	return lines.Err()
}
