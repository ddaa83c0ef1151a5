package qemuio

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/internal/cli/getopt"
	"github.com/cowl-disk/cowl/internal/cli/program"
)

// command is one command of the program's own language.
type command struct {
	name, alias string
	args        string // for the help
	about       string // one line
	help        string // more, "" if there is none
	// min and max bound the number of words after the name; max -1: no bound.
	min, max int
	// anytime: no file need be open.
	anytime bool
	// writes: the image must be writable.
	writes bool
	run    func(s *session, c *command, args []string) error
}

// commands returns all commands, by name.
func commands() []*command {
	list := append(readCommands(), writeCommands()...)
	list = append(list, asyncCommands()...)
	list = append(list, otherCommands()...)
	list = append(list, debugCommands()...)
	list = append(list, zoneCommands()...)
	list = append(list, openCommands()...)
	slices.SortFunc(list, func(a, b *command) int { return strings.Compare(a.name, b.name) })
	return list
}

// do does what a line says.
func (s *session) do(line string) error {
	args := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' })
	if len(args) == 0 {
		return nil
	}
	c := s.find(args[0])
	if c == nil {
		fmt.Fprintf(s.Stderr, "command \"%s\" not found\n", args[0])
		return errFailed
	}
	if !c.anytime && s.img == nil {
		fmt.Fprintln(s.Stderr, "no file open, try 'help open'")
		return errFailed
	}
	if n := len(args) - 1; n < c.min || c.max >= 0 && n > c.max {
		want := fmt.Sprintf("between %d and %d arguments", c.min, c.max)
		switch {
		case c.max < 0:
			want = fmt.Sprintf("at least %d arguments", c.min)
		case c.min == c.max:
			want = fmt.Sprintf("%d arguments", c.min)
		}
		fmt.Fprintf(s.Stderr, "bad argument count %d to %s, expected %s\n", n, args[0], want)
		return errFailed
	}
	if c.writes && !s.img.Writable() {
		return s.errorf("Block node is read-only")
	}
	return c.run(s, c, args[1:])
}

func (s *session) find(name string) *command {
	for _, c := range s.commands {
		if c.name == name || c.alias != "" && c.alias == name {
			return c
		}
	}
	return nil
}

// usage prints how a command is used, and fails.
func (s *session) usage(c *command) error {
	s.printf("%s %s -- %s\n", c.name, c.args, c.about)
	return errFailed
}

// parse reads the options of a command and returns the operands, of which there must be
// from low to high; high -1: no bound.
func (s *session) parse(c *command, args []string, low, high int, options ...program.Option) ([]string, error) {
	operands, err := (&program.Command{Options: options}).Parse(c.name, args)
	var bad *getopt.Error
	switch {
	case errors.As(err, &bad):
		fmt.Fprintln(s.Stderr, err)
		return nil, s.usage(c)
	case err != nil:
		return nil, err
	case len(operands) < low || high >= 0 && len(operands) > high:
		return nil, s.usage(c)
	}
	return operands, nil
}

// printf writes to the standard output.
func (s *session) printf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.Stdout, format, args...)
}

// failf says on the standard output why a command fails.
func (s *session) failf(format string, args ...any) error {
	s.printf(format+"\n", args...)
	return errFailed
}

// fault is errorf without the name of the program: for the errors of files of the system.
func (s *session) fault(format string, args ...any) error {
	fmt.Fprintf(s.Stderr, format+"\n", args...)
	return errFailed
}

// errorf says on the standard error why a command fails.
func (s *session) errorf(format string, args ...any) error {
	fmt.Fprintf(s.Stderr, "%s: %s\n", s.Name, fmt.Sprintf(format, args...))
	return errFailed
}

func (s *session) helpAbout(_ *command, args []string) error {
	if len(args) == 0 {
		for _, c := range s.commands {
			s.printf("%s", c.line(c.name))
		}
		s.printf("\nUse 'help commandname' for extended help.\n")
		return nil
	}
	c := s.find(args[0])
	if c == nil {
		return s.failf("command %s not found", args[0])
	}
	s.printf("%s", c.line(args[0]))
	if c.help != "" {
		s.printf("\n%s\n", c.help)
	}
	return nil
}

// line is the line of the help about a command.
func (c *command) line(name string) string {
	if c.args != "" || c.name == "map" {
		name += " " + c.args
	}
	return name + " -- " + c.about + "\n"
}
