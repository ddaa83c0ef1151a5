package distrobuilder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
)

// version is that of distrobuilder whose command lines are taken.
const version = "3.4.0"

// Program is one run.
type Program struct {
	// Name begins messages: "distrobuilder" or "cowl".
	Name string
	program.Streams
	Drivers []driver.Driver
	// Now is the clock, Getenv looks up variables of the environment.
	Now    func() time.Time
	Getenv func(string) string

	logs io.Writer // where the log goes, if not to the standard output
}

// own says whether the program was called by our own name.
func (p *Program) own() bool { return p.Name == "cowl" }

// builders returns what declares the commands.
func (p *Program) builders() []func(*call) *program.Command {
	list := []func(*call) *program.Command{packCommand, buildCommand, buildDirCommand, validateCommand}
	if p.own() {
		list = append(list, repackCommand, indexCommand)
	}
	return list
}

// Commands returns the declarations of the commands, by name.
func (p *Program) Commands() []*program.Command {
	var list []*program.Command
	for _, build := range p.builders() {
		c := &call{Program: p, ctx: context.Background()}
		list = append(list, c.declare(build))
	}
	slices.SortFunc(list, func(a, b *program.Command) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Has reports whether there is a command of that name.
func (p *Program) Has(name string) bool {
	return slices.ContainsFunc(p.Commands(), func(c *program.Command) bool { return c.Name == name })
}

// errDone ends the reading of options: all is said, exit code 0.
var errDone = errors.New("done")

// Run runs the command that args (without the program's name) ask for and returns the
// exit code. Options may come before the command, too.
func (p *Program) Run(ctx context.Context, args []string) int {
	at := commandAt(args)
	if at < 0 {
		return p.alone(args)
	}
	name, rest := args[at], append(slices.Clone(args[:at]), args[at+1:]...)
	if name == "help" {
		if len(rest) == 0 {
			return p.help(p.Stdout)
		}
		if name, rest = rest[0], []string{"--help"}; !p.own() && !p.Has(name) {
			fmt.Fprintf(p.Stderr, "Unknown help topic [`%s`]\n%s", name, p.usage())
			return 0
		}
	}
	for _, build := range p.builders() {
		c := &call{Program: p, ctx: ctx}
		if c.declare(build).Name == name {
			return c.run(rest)
		}
	}
	return p.refuse(fmt.Errorf("unknown command %q for %q", name, p.Name), fmt.Sprintf("Run '%s --help' for usage.\n", p.Name))
}

// commandAt finds the first word that is neither an option nor the argument of one, -1
// where there is none.
func commandAt(args []string) int {
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case slices.Contains([]string{"-o", "--options", "-t", "--timeout", "--cache-dir"}, a):
			i++
		case a == "-" || !strings.HasPrefix(a, "-"):
			return i
		}
	}
	return -1
}

// alone answers a command line without a command.
func (p *Program) alone(args []string) int {
	for _, a := range args {
		switch a {
		case "--version":
			fmt.Fprintln(p.Stdout, version)
			return 0
		case "-h", "--help":
			return p.help(p.Stdout)
		default:
			return p.refuse(fmt.Errorf("unknown flag: %s", a), p.usage()+"\n")
		}
	}
	return p.help(p.Stdout)
}

func (p *Program) help(w io.Writer) int {
	fmt.Fprintf(w, "System container and VM image builder for Incus, in place of distrobuilder %s\n\n%s", version, p.usage())
	return 0
}

// usage lists the commands.
func (p *Program) usage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:\n  %s [command]\n\nAvailable Commands:\n", p.Name)
	for _, c := range p.Commands() {
		fmt.Fprintf(&b, "  %-14s %s\n", c.Name, c.Summary)
	}
	fmt.Fprintf(&b, "\nUse \"%s [command] --help\" for more information about a command.\n", p.Name)
	return b.String()
}

// refuse prints what is wrong with a command line, and usage, and returns the exit code.
// distrobuilder has no log yet.
func (p *Program) refuse(err error, usage string) int {
	if p.own() {
		fmt.Fprintf(p.Stderr, "%s: %v\n", p.Name, err)
		return 1
	}
	text := capitalised(err.Error())
	fmt.Fprintf(p.Stderr, "Error: %s\n%sFailed running distrobuilder: %s\n", text, usage, text)
	return 1
}

// log prints a line in the form of distrobuilder's logger, which writes to the standard
// output. Our own name has none.
func (p *Program) log(level, text string, fields ...string) {
	if p.own() {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "time=%q level=%s msg=%s", p.Now().Format(time.RFC3339), level, logValue(text))
	for i := 0; i+1 < len(fields); i += 2 {
		fmt.Fprintf(&b, " %s=%s", fields[i], logValue(fields[i+1]))
	}
	if p.logs != nil {
		fmt.Fprintln(p.logs, b.String())
		return
	}
	fmt.Fprintln(p.Stdout, b.String())
}

// logValue quotes what is not a plain word.
func logValue(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._/@^+", r))
	}) {
		return s
	}
	return strconv.Quote(s)
}

// warn prints a warning.
func (p *Program) warn(text string) {
	if p.own() {
		fmt.Fprintf(p.Stderr, "%s: warning: %s\n", p.Name, text)
		return
	}
	p.log("warning", text)
}
