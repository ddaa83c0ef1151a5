package qemuio

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/getopt"
	"github.com/cowl-disk/cowl/internal/cli/object"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/version"
)

// Program is one run of the program.
type Program struct {
	// Name begins messages: "qemu-io", or "cowl io".
	Name string
	program.Streams
	Drivers []driver.Driver

	die func(context.Context) // ends the process by the signal that interrupted it; nil: as is usual
}

// session is a run on its way.
type session struct {
	*Program
	ctx      context.Context
	reg      *block.Registry
	objects  object.Set
	commands []*command
	// imageOpts: files are named by options.
	imageOpts bool

	img    *block.Image // nil if no file is open
	opened opening      // how it was opened
	quit   bool
	// breakpoints: some were set since the file was opened.
	breakpoints bool
	running     sync.WaitGroup // requests that run beside the commands
	watch       sync.Once
	over        chan struct{} // closed when the program has ended
	mu          sync.Mutex    // of the standard output
}

// settings are what the command line says.
type settings struct {
	opening
	lines  []string
	format string
	done   bool
}

// errDone ends the program well.
var errDone = errors.New("done")

// Command declares the command line.
func (p *Program) Command() *program.Command {
	return p.declare(&session{Program: p}, &settings{opening: newOpening()})
}

func (p *Program) declare(s *session, set *settings) *program.Command {
	c := &program.Command{
		Summary: "Try requests on an image, one by one",
		Usage:   []string{"[OPTIONS]... [-c STRING]... [FILE]"},
		About:   "Opens the image and does what the commands say. Without -c they are read from the\nstandard input, a line each; the command help lists them.",
		Options: []program.Option{
			program.Func("-h, --help", "display this help and exit", func(string) error { set.done = true; return errDone }),
			program.Func("-V, --version", "display version info and exit", func(string) error {
				fmt.Fprintf(p.Stdout, "%s version %s\nA drop-in by the cowl project for the program of that name of the QEMU project\n", p.Name, version.Full())
				return errDone
			}),
			program.Func("-c, --cmd STRING", "do this command; several are done in turn", func(arg string) error { set.lines = append(set.lines, arg); return nil }),
			program.Text(&set.format, "-f, --format FMT", "the format of the image"),
			program.Flag(&s.imageOpts, "--image-opts", "FILE is a list of options"),
			program.Func("-m, --misalign", "taken, and without effect: buffers are aligned as the driver needs them", func(string) error { return nil }),
			program.Func("--object OBJDEF", "define an object that options refer to, such as\nsecret,id=ID,file=…", func(arg string) error {
				if err := s.objects.Define(arg, p.Stdout); err != object.ErrHelp {
					return err
				}
				return errDone
			}),
			program.TraceOption(p.Name, &p.Streams, errDone),
		},
		Operands: []program.Operand{{Name: "FILE", Help: "the image"}},
		Examples: []string{"-f qcow2 -c 'write -P 1 0 64k' -c 'read -P 1 0 64k' disk.qcow2", "-f raw -r -c 'read -v 0 512' disk.raw"},
	}
	c.Options = append(c.Options, set.flags(true)...)
	return c
}

// Run does what args (without the program's name) ask for and returns the exit code.
func (p *Program) Run(ctx context.Context, args []string) int {
	s := &session{Program: p, ctx: ctx, reg: block.NewRegistry(p.Drivers...), commands: commands(), over: make(chan struct{})}
	defer close(s.over)
	set := &settings{opening: newOpening()}
	c := p.declare(s, set)
	operands, err := c.Parse(p.Name, args)
	var bad *getopt.Error
	switch {
	case errors.As(err, &bad):
		fmt.Fprintln(p.Stderr, err)
		c.WriteHelp(p.Stdout, p.Name)
		return 1
	case err == errDone:
		if set.done {
			c.WriteHelp(p.Stdout, p.Name)
		}
		return 0
	case err != nil:
		s.reported(err)
		return 1
	case len(operands) > 1:
		c.WriteHelp(p.Stdout, p.Name)
		return 1
	case set.format != "" && s.imageOpts:
		s.errorf("--image-opts and -f are mutually exclusive")
		return 1
	}
	if len(operands) == 1 {
		if err := s.first(set, operands[0]); err != nil {
			return 1
		}
	}
	err = s.loop(set.lines)
	s.drain()
	if e := s.close(); err == nil {
		err = e
	}
	if err != nil || ctx.Err() != nil {
		return 1
	}
	return 0
}

// first opens the file of the command line.
func (s *session) first(set *settings, operand string) error {
	o := set.opening
	switch {
	case s.imageOpts:
		if err := o.options.ParseList(operand, ""); err != nil {
			return s.reported(err)
		}
	default:
		o.name, o.named = operand, true
		if set.format != "" {
			o.options["driver"] = set.format
		}
	}
	return s.open(o)
}

// loop does the commands: those of -c, else those of the standard input. It returns the
// last failure; what comes after one is done nevertheless.
func (s *session) loop(lines []string) (failed error) {
	for _, line := range lines {
		if s.quit || s.ctx.Err() != nil {
			return failed
		}
		if err := s.do(line); err != nil {
			failed = err
		}
	}
	if lines != nil {
		return failed
	}
	next := s.lines()
	for !s.quit {
		line, ok := next()
		if !ok {
			return failed
		}
		if err := s.do(line); err != nil {
			failed = err
		}
	}
	return failed
}

// lines returns what reads the standard input line by line, after a prompt. A terminal
// gets its editing of lines from package term.
func (s *session) lines() func() (string, bool) {
	prompt := s.Name + "> "
	if f, ok := s.Stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return s.terminal(f, prompt)
	}
	in := bufio.NewReader(s.Stdin)
	return func() (string, bool) {
		s.printf("%s", prompt)
		got := make(chan string)
		go func() {
			defer close(got)
			if line, err := in.ReadString('\n'); line != "" || err == nil {
				got <- line
			}
		}()
		select {
		case line, ok := <-got:
			return strings.TrimSuffix(line, "\n"), ok
		case <-s.ctx.Done():
			return "", false
		}
	}
}
