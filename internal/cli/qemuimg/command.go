package qemuimg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/getopt"
	"github.com/cowl-disk/cowl/internal/cli/object"
	"github.com/cowl-disk/cowl/internal/cli/render"
)

// option declares an option of a command, for reading it and for --help.
type option struct {
	id    int
	long  string
	short byte
	value string // name of the argument in the help; "" if it has none
	help  string // "" hides the option from the help
	exact bool   // see getopt.Option
	maybe bool   // the argument may be left out
}

// operand describes a further argument, for the help.
type operand struct{ name, help string }

// command is one command.
type command struct {
	name     string
	summary  string // one line, as in the list of commands
	usage    []string
	about    string // what it does, for the help
	options  []option
	operands []operand
	examples []string
	// failure is the exit code of errors, other than those of the command line.
	failure int
	// more says whether a word with a dash is an operand: see getopt.ParseNext.
	more func(operands []string, word string) bool
	run  func(c *call, args []string) int
}

// Options that several commands have. Numbers below belong to the commands.
const (
	optHelp = iota + 1000
	optFormat
	optImageOpts
	optObject
	optForceShare
	optOutput
	optQuiet
	optProgress
	optCache
)

func helpOption() option {
	return option{id: optHelp, long: "help", short: 'h', help: "print this help and exit"}
}

func formatOption() option {
	return option{id: optFormat, long: "format", short: 'f', value: "FMT", help: "the format of FILENAME; without it the format is probed"}
}

func imageOptsOption() option {
	return option{id: optImageOpts, long: "image-opts", help: "FILENAME is a list of options (driver=qcow2,file.filename=…) instead of a\nfile name; cannot be combined with --format"}
}

func objectOption() option {
	return option{id: optObject, long: "object", value: "OBJDEF", help: "define an object that options refer to, such as\nsecret,id=ID,data=… or secret,id=ID,file=…"}
}

func forceShareOption() option {
	return option{id: optForceShare, long: "force-share", short: 'U', help: "look at the image even if another process has it open for writing;\nwhat is read may be inconsistent"}
}

func outputOption() option {
	return option{id: optOutput, long: "output", value: "human|json", help: "how to print the result (default: human)"}
}

func quietOption() option {
	return option{id: optQuiet, long: "quiet", short: 'q', help: "print nothing but errors"}
}

func progressOption() option {
	return option{id: optProgress, long: "progress", short: 'p', value: "json", maybe: true,
		help: "show progress; with =json as one object per line, with the members\ndone, total, bytes_per_second and phase"}
}

// call is one run of a command.
type call struct {
	*Program
	ctx      context.Context
	cmd      *command
	reg      *block.Registry
	operands []string
	objects  object.Set

	// What the options that several commands have were set to.
	format     string
	hasFormat  bool
	imageOpts  bool
	forceShare bool
	json       bool
	quiet      bool
	progress   render.ProgressMode
	// streaming: the standard output carries an image, and nothing else may.
	streaming bool
	cache     string
}

// errDone ends the reading of options: all is said, exit code 0.
var errDone = errors.New("done")

// usageError is a mistake in the command line. --help is suggested after it.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

func (p *Program) runCommand(ctx context.Context, cmd *command, args []string) int {
	if cmd.failure == 0 {
		cmd.failure = 1
	}
	c := &call{Program: p, ctx: ctx, cmd: cmd, reg: p.registry()}
	return cmd.run(c, args)
}

// parse reads the command line: own takes the options of the command. It returns
// false and the exit code if there is nothing more to do.
func (c *call) parse(args []string, own func(id int, arg string) error) (code int, ok bool) {
	spec := make([]getopt.Option, 0, len(c.cmd.options))
	for _, o := range c.cmd.options {
		g := getopt.Option{ID: o.id, Long: o.long, Short: o.short, Exact: o.exact}
		switch {
		case o.maybe:
			g.Arg = getopt.MayHaveArg
		case o.value != "":
			g.Arg = getopt.HasArg
		}
		spec = append(spec, g)
	}
	operands, err := getopt.ParseNext(c.Name+" "+c.cmd.name, spec, args, func(id int, arg string) error {
		if id < optHelp {
			return own(id, arg)
		}
		return c.common(id, arg)
	}, c.cmd.more)
	c.operands = operands
	if err == nil {
		return 0, true
	}
	return c.fail(err), false
}

// common sets an option that several commands have.
func (c *call) common(id int, arg string) error {
	switch id {
	case optHelp:
		c.cmd.help(c.Stdout, c.Name)
		return errDone
	case optFormat:
		c.format, c.hasFormat = arg, true
	case optImageOpts:
		c.imageOpts = true
	case optObject:
		if err := c.objects.Define(arg, c.Stdout); err != object.ErrHelp {
			return err
		}
		return errDone
	case optForceShare:
		c.forceShare = true
	case optQuiet:
		c.quiet = true
	case optCache:
		c.cache = arg
	case optOutput:
		switch arg {
		case "human":
			c.json = false
		case "json":
			c.json = true
		default:
			return usagef("--output expects 'human' or 'json' not '%s'", arg)
		}
	case optProgress:
		switch arg {
		case "":
			c.progress = render.ProgressText
		case "json":
			c.progress = render.ProgressJSON
		default:
			return usagef("--progress expects 'json' or nothing, not '%s'", arg)
		}
	}
	return nil
}

// fail reports an error and returns the exit code.
func (c *call) fail(err error) int {
	var bad *getopt.Error
	var usage *usageError
	var two *twoErrors
	switch {
	case err == errDone:
		return 0
	case errors.As(err, &bad):
		fmt.Fprintln(c.Stderr, err)
		return c.tryHelp()
	case errors.As(err, &two):
		c.fail(two.First)
		return c.fail(two.Second)
	case errors.As(err, &usage):
		return c.usage(err.Error())
	}
	c.errorf("%s", render.Error(err))
	return c.cmd.failure
}

// usage reports a mistake in the command line.
func (c *call) usage(msg string) int {
	c.errorf("%s", msg)
	return c.tryHelp()
}

func (c *call) tryHelp() int {
	fmt.Fprintf(c.Stderr, "Try '%s %s --help' for more info\n", c.Name, c.cmd.name)
	return 1
}

// errorf prints an error message and returns the exit code of failure.
func (c *call) errorf(format string, args ...any) int {
	fmt.Fprintf(c.Stderr, c.Name+": "+format+"\n", args...)
	return c.cmd.failure
}

func (c *call) warnf(format string, args ...any) {
	fmt.Fprintf(c.Stderr, c.Name+": warning: "+format+"\n", args...)
}

// printf prints a message that -q silences.
func (c *call) printf(format string, args ...any) {
	if !c.quiet {
		fmt.Fprintf(c.Stdout, format, args...)
	}
}

// out is where results go: nowhere with -q.
func (c *call) out() io.Writer {
	if c.quiet {
		return io.Discard
	}
	return c.Stdout
}

// print reports an error of printing, if there is one.
func (c *call) print(err error) int {
	if err != nil {
		return c.errorf("Could not write the output: %s", render.System(err))
	}
	return 0
}

// help prints how to use the command.
func (cmd *command) help(w io.Writer, prog string) {
	fmt.Fprintf(w, "%s.  Usage:\n\n", cmd.summary)
	for i, line := range cmd.usage {
		if i == 0 {
			line = fmt.Sprintf("  %s %s %s", prog, cmd.name, line)
		} else {
			line = "        " + line
		}
		fmt.Fprintln(w, line)
	}
	if cmd.about != "" {
		fmt.Fprintf(w, "\n%s\n", cmd.about)
	}
	fmt.Fprint(w, "\nArguments:\n")
	for _, o := range cmd.options {
		if o.help == "" {
			continue
		}
		var names []string
		if o.short != 0 {
			names = append(names, "-"+string(o.short))
		}
		if o.long != "" {
			names = append(names, "--"+o.long)
		}
		value := ""
		switch {
		case o.maybe:
			value = "[=" + o.value + "]"
		case o.value != "":
			value = " " + o.value
		}
		item(w, strings.Join(names, ", ")+value, o.help)
	}
	for _, o := range cmd.operands {
		item(w, o.name, o.help)
	}
	if len(cmd.examples) > 0 {
		fmt.Fprint(w, "\nExamples:\n")
		for _, e := range cmd.examples {
			fmt.Fprintf(w, "  %s %s %s\n", prog, cmd.name, e)
		}
	}
}

func item(w io.Writer, name, help string) {
	fmt.Fprintf(w, "  %s\n     %s\n", name, strings.ReplaceAll(help, "\n", "\n     "))
}
