package program

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"golang.org/x/term"

	"github.com/cowl-disk/cowl/internal/resources"
)

// gcPercent is the GC target: heap growth allowed before a collection, in percent
// of the live heap. What is alive is mostly caches of tables without pointers,
// which cost the collector next to nothing.
const gcPercent = 50

// Streams are the standard streams of a program.
type Streams struct {
	Stdin io.Reader
	// Stdout is for results and messages. Once its reader has gone, what is
	// written is dropped: the work goes on.
	Stdout io.Writer
	// Data is the standard output for data, such as an image: a reader that has
	// gone is an error.
	Data io.Writer
	// Stderr is for messages: characters that control a terminal are escaped.
	Stderr io.Writer
	// Screen is the standard error as it is, for progress.
	Screen io.Writer
	// Terminal says that both outputs are a terminal.
	Terminal bool
}

// Main runs a program and ends the process with the exit code that run returns,
// or by the signal that interrupted it. The context of run ends at the first
// SIGINT, SIGTERM or SIGHUP, unless the signal was ignored when the process started; a
// second signal ends the process at once.
func Main(run func(ctx context.Context, s Streams) int) {
	start(func(ctx context.Context, s Streams) int {
		ctx.Done() // signals are caught from here on
		return run(ctx, s)
	})
}

// MainOfReader is Main for a command that changes nothing. A signal ends the process at
// once until something waits for the end of the context of run: catching signals takes
// two threads, which are a good part of what a short command costs.
func MainOfReader(run func(ctx context.Context, s Streams) int) { start(run) }

func start(run func(ctx context.Context, s Streams) int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	// Before anything is opened, limits of the system included.
	if err := prepareDescriptors(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Name(os.Args), err)
		os.Exit(1)
	}
	resources.Apply()
	ctx, s := catchSignals(context.Background())
	code := run(ctx, Streams{Stdin: os.Stdin, Stdout: tolerate(os.Stdout), Data: os.Stdout, Stderr: messages{os.Stderr}, Screen: os.Stderr,
		Terminal: term.IsTerminal(int(os.Stdout.Fd())) && term.IsTerminal(int(os.Stderr.Fd()))})
	s.end()
	os.Exit(code)
}
