package qemuimg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/getopt"
	"github.com/cowl-disk/cowl/internal/cli/object"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/internal/cli/words"
)

// call is one run of a command.
type call struct {
	*Program
	ctx      context.Context
	cmd      *program.Command
	reg      *block.Registry
	operands []string
	objects  object.Set
	failure  int // the exit code of errors, other than those of the command line

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

	watch sync.Once
	die   func(context.Context) // ends the process by the signal that interrupted it
	over  chan struct{}         // closed when the command has ended, nil before it begins
}

func (p *Program) newCall(ctx context.Context) *call {
	return &call{Program: p, ctx: ctx, reg: p.registry(), failure: 1, cache: cacheWriteback, die: program.DieOfSignal}
}

// Options that several commands have.

func (c *call) helpOption() program.Option {
	return program.Func("-h, --help", "print this help and exit", func(string) error {
		c.cmd.WriteHelp(c.Stdout, c.Name)
		return errDone
	})
}

func (c *call) formatOption() program.Option {
	return c.formatOptionAs("-f, --format FMT", "the format of FILENAME; without it the format is probed")
}

func (c *call) formatOptionAs(spelling, help string) program.Option {
	return program.Func(spelling, help, func(arg string) error {
		c.format, c.hasFormat = arg, true
		return nil
	}).Offering(c.formats()...)
}

func (c *call) imageOptsOption() program.Option {
	return program.Flag(&c.imageOpts, "--image-opts", "FILENAME is a list of options (driver=qcow2,file.filename=…) instead of a\nfile name; cannot be combined with --format")
}

func (c *call) objectOption() program.Option {
	return program.Func("--object OBJDEF", "define an object that options refer to, such as\nsecret,id=ID,data=… or secret,id=ID,file=…", func(arg string) error {
		if err := c.objects.Define(arg, c.Stdout); err != object.ErrHelp {
			return err
		}
		return errDone
	})
}

// declare makes the declaration of a command, with the options that all have whose
// operands are images.
func (c *call) declare(build func(*call) *program.Command) *program.Command {
	cmd := build(c)
	takes := func(name string) bool {
		return slices.ContainsFunc(cmd.Options, func(o program.Option) bool { return strings.HasPrefix(o.Spelling, name) })
	}
	if takes("--object") {
		cmd.Options = append(cmd.Options,
			program.Func("--iscsi SETTINGS", "settings of sessions with an iSCSI target: [id=TARGET,]user=…,\npassword-secret=…,initiator-name=…,header-digest=…,timeout=…", c.objects.DefineISCSI).InFull(),
			program.Func("--readconfig FILE", "read settings from the sections [iscsi], [iscsi \"TARGET\"] and\n[object \"ID\"] of a configuration file of the emulator", c.objects.ReadConfig).InFull())
		// Behind the line with the other options, before that of the operands.
		at := max(len(cmd.Usage)-1, 1)
		cmd.Usage = slices.Insert(cmd.Usage, at, "[--iscsi SETTINGS] [--readconfig FILE]")
	}
	return cmd
}

func (c *call) forceShareOption() program.Option {
	return program.Flag(&c.forceShare, "-U, --force-share", "look at the image even if another process has it open for writing;\nwhat is read may be inconsistent")
}

func (c *call) outputOption() program.Option {
	return program.Choice("--output human|json", "--output", "how to print the result (default: human)", func(word string) {
		c.json = word == "json"
	}, "human", "json")
}

func (c *call) quietOption() program.Option {
	return program.Flag(&c.quiet, "-q, --quiet", "print nothing but errors")
}

func (c *call) progressOption() program.Option {
	return program.Func("-p, --progress[=json]", "show progress; with =json as one object per line, with the members\ndone, total, bytes_per_second and phase", func(arg string) error {
		switch arg {
		case "":
			c.progress = render.ProgressText
		case "json":
			c.progress = render.ProgressJSON
		default:
			return program.Usagef("--progress expects 'json' or nothing, not '%s'", arg)
		}
		return nil
	}).Offering("json")
}

// cacheOption declares the cache mode of the image.
func (c *call) cacheOption(spelling, help string) program.Option {
	return program.Text(&c.cache, spelling, help).Offering(cacheModes...)
}

// errDone ends the reading of options: all is said, exit code 0.
var errDone = errors.New("done")

// run reads the command line and does the work.
func (c *call) run(args []string) (code int) {
	c.over = make(chan struct{})
	defer close(c.over)
	var err error
	if c.operands, err = c.cmd.Parse(c.Name+" "+c.cmd.Name, args); err != nil {
		return c.fail(err)
	}
	if err = c.cmd.Check(c.operands); err != nil {
		return c.fail(err)
	}
	return c.cmd.Run(c.ctx, c.operands)
}

// fail reports an error and returns the exit code.
func (c *call) fail(err error) int {
	var bad *getopt.Error
	var usage *program.UsageError
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
	c.errorf("%s", words.Text(err))
	return c.failure
}

// usage reports a mistake in the command line.
func (c *call) usage(msg string) int {
	c.errorf("%s", msg)
	return c.tryHelp()
}

func (c *call) tryHelp() int {
	fmt.Fprintf(c.Stderr, "Try '%s %s --help' for more information\n", c.Name, c.cmd.Name)
	return 1
}

// errorf prints an error message and returns the exit code of failure.
func (c *call) errorf(format string, args ...any) int {
	fmt.Fprintf(c.Stderr, c.Name+": "+format+"\n", args...)
	return c.failure
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
		return c.errorf("Could not write the output: %s", words.System(err))
	}
	return 0
}
