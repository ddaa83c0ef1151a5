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
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/internal/version"
)

// Program is one run of the program.
type Program struct {
	// Name begins messages: "qemu-img" or "cowl".
	Name string
	program.Streams
	Drivers []driver.Driver
	// Others returns commands of other packages, which the caller runs itself: for the
	// help, completion and manual pages. It may be nil.
	Others func() []*program.Command
	// Mounter does what the command mount is for; nil in programs that only describe it.
	Mounter Mounter
}

// cowl says whether the program was called by its own name.
func (p *Program) cowl() bool { return p.Name == "cowl" }

// builders returns what declares the commands.
func (p *Program) builders() []builder {
	list := []builder{
		{"amend", amendCommand},
		{"bench", benchCommand},
		{"bitmap", bitmapCommand},
		{"check", checkCommand},
		{"commit", commitCommand},
		{"compare", compareCommand},
		{"convert", convertCommand},
		{"create", createCommand},
		{"dd", ddCommand},
		{"info", infoCommand},
		{"map", mapCommand},
		{"measure", measureCommand},
		{"rebase", rebaseCommand},
		{"resize", resizeCommand},
		{"snapshot", snapshotCommand},
	}
	if p.cowl() {
		list = append(list, builder{"checksum", checksumCommand}, builder{"completion", completionCommand}, builder{"iscsi-ls", iscsiLsCommand},
			builder{"mount", mountCommand}, builder{"ova", ovaCommand})
	}
	return list
}

// builder declares the command called name.
type builder struct {
	name  string
	build func(*call) *program.Command
}

// Commands returns the declarations of all commands, by name, those of other
// packages included.
func (p *Program) Commands() []*program.Command {
	var list []*program.Command
	if p.Others != nil {
		list = p.Others()
	}
	for _, b := range p.builders() {
		c := p.newCall(context.Background())
		c.cmd = c.declare(b.build)
		list = append(list, c.cmd)
	}
	slices.SortFunc(list, func(a, b *program.Command) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Frame declares the options of the program itself.
func (p *Program) Frame() *program.Command {
	return &program.Command{
		Summary: "Create, inspect, check, copy and change virtual disk images",
		Usage:   []string{"[standard options] COMMAND [--help | command options]"},
		Options: []program.Option{
			program.Func("-h, --help", "display this help and exit", func(string) error {
				p.help()
				return errDone
			}),
			program.Func("-V, --version", "display version info and exit", func(string) error {
				p.version()
				return errDone
			}),
			program.TraceOption(p.Name, &p.Streams, errDone),
		},
	}
}

// Run runs the command that args (without the program's name) ask for and
// returns the exit code.
func (p *Program) Run(ctx context.Context, args []string) int {
	// Options of the program end at the name of the command.
	global, rest := splitGlobal(args)
	_, err := p.Frame().Parse(p.Name, global)
	var bad *getopt.Error
	switch {
	case err == errDone:
		return 0
	case errors.As(err, &bad):
		fmt.Fprintln(p.Stderr, err)
		return p.tryHelp()
	case err != nil:
		fmt.Fprintf(p.Stderr, "%s: %s\n", p.Name, words.Text(err))
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
			fmt.Fprintln(p.Stdout, version.Build())
			return 0
		case "help":
			if len(args) == 0 {
				p.help()
				return 0
			}
			name, args = args[0], []string{"--help"}
		}
	}
	for _, b := range p.builders() {
		if b.name == name {
			c := p.newCall(ctx)
			c.cmd = c.declare(b.build)
			return c.run(args)
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
	fmt.Fprintf(p.Stderr, "Try '%s --help' for more information\n", p.Name)
	return 1
}

func (p *Program) version() {
	if p.cowl() {
		fmt.Fprintf(p.Stdout, "cowl version %s (qemu-img %s)\n", version.Own(), version.Original)
		return
	}
	fmt.Fprintf(p.Stdout, "qemu-img version %s\n", version.Full())
	fmt.Fprintln(p.Stdout, "A drop-in by the cowl project for the program of that name of the QEMU project")
}

func (p *Program) help() {
	p.version()
	frame := p.Frame()
	fmt.Fprintf(p.Stdout, "%s.  Usage:\n\n  %s %s\n\nStandard options:\n", frame.Summary, p.Name, frame.Usage[0])
	frame.WriteOptions(p.Stdout)
	fmt.Fprintf(p.Stdout, "\nRecognized commands (run %s COMMAND --help for command-specific help):\n\n", p.Name)
	list := p.Commands()
	for _, c := range list {
		fmt.Fprintf(p.Stdout, "  %s - %s\n", c.Name, c.Summary)
	}
	fmt.Fprint(p.Stdout, "\nSupported image formats:\n\n")
	p.listFormats()
	// Programs that call this one look here for what it can do: each command is on a
	// line of its own, as in the help of old versions of QEMU.
	fmt.Fprint(p.Stdout, "\nCommand syntax:\n\n")
	for _, c := range list {
		fmt.Fprintf(p.Stdout, "  %s\n", c.Synopsis())
	}
}

// formats returns the names of the drivers.
func (p *Program) formats() []string {
	var names []string
	for _, d := range p.Drivers {
		if d.Desc().NotBuiltIn {
			continue
		}
		names = append(names, d.Desc().Name)
	}
	slices.Sort(names)
	return names
}

// listFormats lists the drivers in lines of at most 76 characters.
func (p *Program) listFormats() {
	line := " "
	for _, n := range p.formats() {
		if len(line)+1+len(n) > 76 {
			fmt.Fprintln(p.Stdout, line)
			line = " "
		}
		line += " " + n
	}
	fmt.Fprintln(p.Stdout, line)
}

// registry makes the set of drivers for one command.
func (p *Program) registry() *block.Registry { return block.NewRegistry(p.Drivers...) }

// completionCommand prints a script that completes command lines of cowl.
func completionCommand(c *call) *program.Command {
	return &program.Command{
		Name: "completion", Summary: "Print a script that completes command lines in a shell",
		Usage:    []string{"bash|zsh|fish"},
		About:    "In bash: source <(cowl completion bash). In zsh: cowl completion zsh, as the file\n_cowl in a directory of $fpath. In fish: cowl completion fish | source.",
		Options:  []program.Option{c.helpOption()},
		Operands: []program.Operand{{Name: "bash|zsh|fish", Help: "the shell"}},
		Examples: []string{"bash >/etc/bash_completion.d/cowl"},
		Run: func(_ context.Context, operands []string) int {
			if len(operands) != 1 {
				return c.usage("Expecting the name of a shell")
			}
			var b strings.Builder
			if err := program.Completion(&b, "cowl", operands[0], c.Commands()); err != nil {
				return c.fail(err)
			}
			_, err := io.WriteString(c.Stdout, b.String())
			return c.print(err)
		},
	}
}
