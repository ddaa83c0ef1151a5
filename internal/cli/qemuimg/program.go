package qemuimg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/getopt"
	"github.com/cowl-disk/cowl/internal/cli/imageopt"
)

// Version is the version of this program. OriginalVersion is the version of the
// original whose behaviour it has; callers read it from --version.
const (
	Version         = "0.1.0"
	OriginalVersion = "10.2.2"
)

// Program is one run of the program.
type Program struct {
	// Name begins messages: "qemu-img" or "cowl".
	Name           string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Drivers        []driver.Driver
	// Others are commands that the caller runs itself, for the list in the help.
	Others []Other
}

// Other is a command of another package.
type Other struct{ Name, Summary string }

// cowl says whether the program was called by its own name.
func (p *Program) cowl() bool { return p.Name == "cowl" }

func (p *Program) commands() []*command {
	list := []*command{
		amendCommand(),
		benchCommand(),
		bitmapCommand(),
		checkCommand(),
		commitCommand(),
		compareCommand(),
		convertCommand(),
		createCommand(),
		ddCommand(),
		infoCommand(),
		mapCommand(),
		measureCommand(),
		rebaseCommand(),
		resizeCommand(),
		snapshotCommand(),
	}
	if p.cowl() {
		list = append(list, checksumCommand())
		slices.SortFunc(list, func(a, b *command) int { return strings.Compare(a.name, b.name) })
	}
	return list
}

const (
	optVersion = iota + 1
	optTrace
)

var programOptions = []getopt.Option{
	{ID: optHelp, Long: "help", Short: 'h'},
	{ID: optVersion, Long: "version", Short: 'V'},
	{ID: optTrace, Long: "trace", Short: 'T', Arg: getopt.HasArg},
}

// Run runs the command that args (without the program's name) ask for and
// returns the exit code.
func (p *Program) Run(ctx context.Context, args []string) int {
	// Options of the program end at the name of the command.
	global, rest := splitGlobal(args)
	_, err := getopt.Parse(p.Name, programOptions, global, func(id int, arg string) error {
		switch id {
		case optHelp:
			p.help()
			return errDone
		case optVersion:
			p.version()
			return errDone
		case optTrace:
			return p.trace(arg)
		}
		return nil
	})
	var bad *getopt.Error
	switch {
	case err == errDone:
		return 0
	case errors.As(err, &bad):
		fmt.Fprintln(p.Stderr, err)
		return p.tryHelp()
	case err != nil:
		fmt.Fprintf(p.Stderr, "%s: %v\n", p.Name, err)
		return 1
	}
	if len(rest) == 0 {
		fmt.Fprintf(p.Stderr, "%s: Not enough arguments\n", p.Name)
		return p.tryHelp()
	}
	name, args := rest[0], rest[1:]
	if p.cowl() {
		switch name {
		case "version":
			p.version()
			return 0
		case "help":
			if len(args) == 0 {
				p.help()
				return 0
			}
			name, args = args[0], []string{"--help"}
		}
	}
	for _, cmd := range p.commands() {
		if cmd.name == name {
			return p.runCommand(ctx, cmd, args)
		}
	}
	fmt.Fprintf(p.Stderr, "%s: Command not found: %s\n", p.Name, name)
	return p.tryHelp()
}

// splitGlobal splits the command line before the first word that is neither an
// option nor the argument of one.
func splitGlobal(args []string) (global, rest []string) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			return args[:i], args[i+1:]
		case a == "-T" || len(a) > 3 && !strings.Contains(a, "=") && strings.HasPrefix("--trace", a):
			i++
		case !strings.HasPrefix(a, "-") || a == "-":
			return args[:i], args[i:]
		}
	}
	return args, nil
}

func (p *Program) tryHelp() int {
	fmt.Fprintf(p.Stderr, "Try '%s --help' for more info\n", p.Name)
	return 1
}

func (p *Program) version() {
	if p.cowl() {
		fmt.Fprintf(p.Stdout, "cowl version %s (qemu-img %s)\n", Version, OriginalVersion)
		return
	}
	fmt.Fprintf(p.Stdout, "qemu-img version %s (cowl %s)\n", OriginalVersion, Version)
	fmt.Fprintln(p.Stdout, "A drop-in by the cowl project for the program of that name of the QEMU project")
}

func (p *Program) help() {
	p.version()
	fmt.Fprintf(p.Stdout, `Create, inspect, check, copy and change virtual disk images.  Usage:

  %s [standard options] COMMAND [--help | command options]

Standard options:
  -h, --help
     display this help and exit
  -V, --version
     display version info and exit
  -T, --trace TRACE
     accepted for compatibility: this program has no trace events

Recognized commands (run %[1]s COMMAND --help for command-specific help):

`, p.Name)
	list := slices.Clone(p.Others)
	for _, c := range p.commands() {
		list = append(list, Other{c.name, c.summary})
	}
	slices.SortFunc(list, func(a, b Other) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range list {
		fmt.Fprintf(p.Stdout, "  %s - %s\n", c.Name, c.Summary)
	}
	fmt.Fprint(p.Stdout, "\nSupported image formats:\n\n")
	p.formats()
}

// formats lists the drivers in lines of at most 76 characters.
func (p *Program) formats() {
	var names []string
	for _, d := range p.Drivers {
		if d.Desc().NotBuiltIn {
			continue
		}
		names = append(names, d.Desc().Name)
	}
	slices.Sort(names)
	line := " "
	for _, n := range names {
		if len(line)+1+len(n) > 76 {
			fmt.Fprintln(p.Stdout, line)
			line = " "
		}
		line += " " + n
	}
	fmt.Fprintln(p.Stdout, line)
}

// trace reads a trace option.
func (p *Program) trace(arg string) error {
	help, err := imageopt.Trace(arg, func(format string, args ...any) {
		fmt.Fprintf(p.Stderr, p.Name+": warning: "+format+"\n", args...)
	})
	if help {
		return errDone
	}
	return err
}

// registry makes the set of drivers for one command.
func (p *Program) registry() *block.Registry { return block.NewRegistry(p.Drivers...) }
