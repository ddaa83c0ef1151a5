package distrobuilder

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/incus/definition"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
)

// call is one run of a command.
type call struct {
	*Program
	ctx context.Context
	cmd *program.Command

	// Options that all commands have.
	cacheDir       string
	keepCache      bool
	debug          bool
	disableOverlay bool
	set            []string
	timeout        time.Duration

	progress render.ProgressMode
	json     bool
}

// declare makes the declaration of the command.
func (c *call) declare(build func(*call) *program.Command) *program.Command {
	c.cmd = build(c)
	return c.cmd
}

// boolean declares a flag that may say =true or =false.
func boolean(v *bool, spelling, help string) program.Option {
	return program.Func(spelling+"[=BOOL]", help, func(arg string) error {
		if arg == "" {
			*v = true
			return nil
		}
		b, err := strconv.ParseBool(arg)
		if err != nil {
			return program.Usagef("invalid argument %q for %q flag: %v", arg, spelling, err)
		}
		*v = b
		return nil
	}).Offering("true", "false")
}

// common declares the options that all commands have.
func (c *call) common() []program.Option {
	cleanup := program.Func("--cleanup[=BOOL]", "remove what a build made in the cache directory once it ends (default: true)", func(arg string) error {
		on := true
		if arg != "" {
			var err error
			if on, err = strconv.ParseBool(arg); err != nil {
				return program.Usagef("invalid argument %q for %q flag: %v", arg, "--cleanup", err)
			}
		}
		c.keepCache = !on
		return nil
	}).Offering("true", "false")
	return []program.Option{
		program.Func("-h, --help", "print this help and exit", func(string) error {
			c.cmd.WriteHelp(c.Stdout, c.Name)
			return errDone
		}),
		program.Text(&c.cacheDir, "--cache-dir DIR", "where temporary files come; nothing that is there is deleted\n(default: that of the system)").In("Global"),
		cleanup.In("Global"),
		boolean(&c.debug, "--debug", "tell more about what is done").In("Global"),
		boolean(&c.disableOverlay, "--disable-overlay", "do not mount overlays; none are ever mounted").In("Global"),
		program.Func("-o, --options KEY=VALUE", "override values of the definition, such as image.release=13;\nseveral with commas, or the option again", c.addOptions).In("Global"),
		program.Func("-t, --timeout SECONDS", "give up after this time", func(arg string) error {
			n, err := strconv.ParseUint(arg, 10, 31)
			if err != nil {
				return program.Usagef("invalid argument %q for \"-t, --timeout\" flag: %v", arg, err)
			}
			c.timeout = time.Duration(n) * time.Second
			return nil
		}).In("Global"),
		program.Func("--version", "print the version and exit", func(string) error {
			fmt.Fprintln(c.Stdout, version)
			return errDone
		}).In("Global"),
	}
}

// globalUsage is the usage line of the common options.
const globalUsage = "[--cache-dir DIR] [--cleanup[=BOOL]] [--debug[=BOOL]] [--disable-overlay[=BOOL]] [-o KEY=VALUE] [-t SECONDS] [--version]"

func (c *call) addOptions(arg string) error {
	r := csv.NewReader(strings.NewReader(arg))
	fields, err := r.Read()
	if err == io.EOF {
		return nil
	}
	if err != nil {
		return program.Usagef("invalid argument %q for \"-o, --options\" flag: %v", arg, err)
	}
	c.set = append(c.set, fields...)
	return nil
}

// count makes a rule about the number of operands, in the words of distrobuilder.
func count(least, most int) program.Rule {
	return program.Rule{Broken: func(operands []string) bool { return len(operands) < least || len(operands) > most }, Says: fmt.Sprintf("accepts between %d and %d arg(s), received ", least, most)}
}

// usageError is a mistake in the command line, after which its usage is shown.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// quiet says that distrobuilder does not print errors of this command beside its log.
func (c *call) quiet() bool { return c.cmd.Name == "validate" }

// usage is how the command is called, as it is shown after mistakes.
func (c *call) usage() string {
	return fmt.Sprintf("Usage:\n  %s %s %s\n\n", c.Name, c.cmd.Name, strings.Join(c.cmd.Usage, "\n        "))
}

// run reads the command line and does the work.
func (c *call) run(args []string) int {
	operands, err := c.cmd.Parse(c.Name+" "+c.cmd.Name, args)
	if errors.Is(err, errDone) {
		return 0
	}
	if err == nil {
		if err = c.cmd.Check(operands); err != nil {
			if !strings.HasSuffix(err.Error(), "received ") {
				return c.finish(usageError{err})
			}
			err = fmt.Errorf("%w%d", err, len(operands))
		}
	}
	switch {
	case err != nil && c.quiet() && !c.own():
		fmt.Fprintf(c.Stderr, "Failed running distrobuilder: %s\n", flagWords(err.Error()))
		return 1
	case err != nil && !c.own():
		return c.refuse(errors.New(flagWords(err.Error())), c.usage())
	case err != nil:
		return c.refuse(err, "")
	}
	if c.timeout > 0 {
		var cancel context.CancelFunc
		c.ctx, cancel = context.WithTimeoutCause(c.ctx, c.timeout, fmt.Errorf("timed out after %v", c.timeout))
		defer cancel()
	}
	return c.cmd.Run(c.ctx, operands)
}

// finish prints an error, that of a timeout in its own words, and returns the exit code.
func (c *call) finish(err error) int {
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", context.Cause(c.ctx), err)
	}
	code := 0
	if err != nil {
		code = c.fail(err)
	}
	if !c.quiet() && !c.keepCache {
		c.log("info", "Removing cache directory")
	}
	return code
}

// fail prints an error and returns the exit code of all of them.
func (c *call) fail(err error) int {
	if c.own() {
		return c.refuse(err, "")
	}
	text := capitalised(err.Error())
	if !c.quiet() {
		fmt.Fprintf(c.Stderr, "Error: %s\n", text)
		if errors.As(err, &usageError{}) {
			fmt.Fprint(c.Stderr, c.usage())
		}
	}
	c.log("error", "Failed running distrobuilder", "err", text)
	return 1
}

// definition reads the definition in a file, or with "-" on the standard input.
func (c *call) definition(name string) ([]byte, error) {
	in := io.NopCloser(c.Stdin)
	if name != "-" && name != "" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		in = f
	}
	defer in.Close()
	return io.ReadAll(io.LimitReader(in, definition.MaxSize+1))
}

// parse is definition.Parse of what the command line says.
func (c *call) parse(text []byte, now time.Time) (*definition.Definition, error) {
	d, err := definition.Parse(text, definition.Options{Set: c.set, Now: now})
	if err != nil {
		return nil, fmt.Errorf("failed to get definition: %w", err)
	}
	return d, nil
}

// temporary makes the folder for temporary files.
func (c *call) temporary() error {
	if c.cacheDir == "" {
		return nil
	}
	return os.MkdirAll(c.cacheDir, 0o755)
}

func (c *call) registry() *block.Registry { return block.NewRegistry(c.Drivers...) }

// epoch is the time that SOURCE_DATE_EPOCH says.
func (c *call) epoch() (t time.Time, ok bool, err error) {
	text := c.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return t, false, nil
	}
	n, err := strconv.ParseInt(text, 10, 40)
	if err != nil || n < 0 {
		return t, false, fmt.Errorf("SOURCE_DATE_EPOCH is no number of seconds: %q", text)
	}
	return time.Unix(n, 0).UTC(), true, nil
}
