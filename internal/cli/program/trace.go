package program

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cowl-disk/cowl/internal/trace"
	"github.com/cowl-disk/cowl/opts"
)

// TraceOption declares --trace. It prints the list of events and returns done where
// that is asked for.
func TraceOption(prog string, s *Streams, done error) Option {
	return Func("-T, --trace TRACE", "print what happens inside to the standard error:\n[enable=]PATTERN,events=FILE,file=FILE. PATTERN names events\n(* and ? as in the shell; a leading - turns them off),\nevents=FILE holds patterns, one a line, file=FILE takes the\noutput; 'help' lists the events", func(arg string) error {
		help, err := setTrace(prog, s, arg)
		if help {
			for _, name := range trace.Names() {
				fmt.Fprintln(s.Stdout, name)
			}
			return done
		}
		return err
	})
}

// setTrace turns on the events that the argument of --trace names. help tells that the
// list of events was asked for.
func setTrace(prog string, s *Streams, arg string) (help bool, err error) {
	d := opts.Dict{}
	if err := d.ParseList(arg, "enable"); err != nil {
		return false, err
	}
	for _, key := range d.Keys() {
		switch key {
		case "enable", "events", "file", "help":
		default:
			return false, fmt.Errorf("Invalid parameter '%s'", key)
		}
	}
	pattern := d.String("enable")
	if pattern == "help" || pattern == "?" {
		return true, nil
	}
	if pattern != "" && !trace.Set(pattern) {
		fmt.Fprintf(s.Stderr, "%s: warning: trace event '%s' does not exist\n", prog, strings.TrimPrefix(pattern, "-"))
	}
	if name := d.String("events"); name != "" {
		if err := traceEvents(prog, s, name); err != nil {
			return false, err
		}
	}
	if name := d.String("file"); name != "" {
		// The file is open as long as the process lives.
		f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o666)
		if err != nil {
			return false, fmt.Errorf("%s: %w", name, withoutPath(err))
		}
		trace.SetOutput(f)
	}
	return false, nil
}

// traceEvents turns on the events that a file names.
func traceEvents(prog string, s *Streams, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, withoutPath(err))
	}
	defer f.Close()
	return trace.SetFrom(f, func(line int, event string) {
		fmt.Fprintf(s.Stderr, "%s:%s:%d: warning: trace event '%s' does not exist\n", prog, name, line, event)
	})
}

// withoutPath takes the name of the file out of an error, where the message has it
// already.
func withoutPath(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
