package program

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/internal/cli/getopt"
)

// Operand describes a further argument, for the help.
type Operand struct{ Name, Help string }

// Command declares a command line: a command of a program, or a program without
// commands.
type Command struct {
	Name     string // "" for a program without commands
	Summary  string // one line, as in the list of commands
	Usage    []string
	About    string // what it does
	Options  []Option
	Operands []Operand
	Examples []string
	// Rules are what Check looks at, in this order.
	Rules []Rule
	// More tells whether a word with a dash is an operand: see getopt.Parse.
	More func(operands []string, word string) bool
	// Run does the work, once the options are set, and returns the exit code.
	Run func(ctx context.Context, operands []string) int
}

// Parse reads a command line: it sets the options and returns the operands. prog
// begins the messages of errors, which are of type *getopt.Error for what no option
// was declared for.
func (c *Command) Parse(prog string, args []string) (operands []string, err error) {
	return getopt.Parse(prog, c.spec(), args, func(id int, arg string) error {
		return c.Options[id].Set(arg)
	}, c.More)
}

// spec declares the options to package getopt; their number is their place.
func (c *Command) spec() []getopt.Option {
	var spec []getopt.Option
	for i, o := range c.Options {
		arg := getopt.NoArg
		switch {
		case o.maybe:
			arg = getopt.MayHaveArg
		case o.hasArg:
			arg = getopt.HasArg
		}
		for _, letter := range []byte(o.short) {
			spec = append(spec, getopt.Option{ID: i, Short: letter, Arg: arg})
		}
		for _, long := range o.long {
			spec = append(spec, getopt.Option{ID: i, Long: long, Arg: arg, Exact: slices.Contains(o.inFull, long)})
		}
	}
	return spec
}

// Synopsis is the command line in one line, as the end of the program's help shows
// it: "info [-f FMT | --image-opts] … FILENAME".
func (c *Command) Synopsis() string {
	return strings.TrimSpace(c.Name + " " + strings.Join(c.Usage, " "))
}

// WriteHelp prints how to use the command, in blocks, the way qemu-img does.
func (c *Command) WriteHelp(w io.Writer, prog string) {
	fmt.Fprintf(w, "%s.  Usage:\n\n", c.Summary)
	for i, line := range c.Usage {
		if i == 0 {
			line = fmt.Sprintf("  %s %s %s", prog, c.Name, line)
		} else {
			line = "        " + line
		}
		fmt.Fprintln(w, line)
	}
	if c.About != "" {
		fmt.Fprintf(w, "\n%s\n", c.About)
	}
	fmt.Fprint(w, "\nArguments:\n")
	c.WriteOptions(w)
	for _, o := range c.Operands {
		item(w, o.Name, o.Help)
	}
	if len(c.Examples) > 0 {
		fmt.Fprint(w, "\nExamples:\n")
		for _, e := range c.Examples {
			fmt.Fprintf(w, "  %s %s %s\n", prog, c.Name, e)
		}
	}
}

// WriteOptions prints what each option means.
func (c *Command) WriteOptions(w io.Writer) {
	for _, o := range c.Options {
		item(w, o.Spelling, o.Help)
	}
}

func item(w io.Writer, name, help string) {
	fmt.Fprintf(w, "  %s\n     %s\n", name, strings.ReplaceAll(help, "\n", "\n     "))
}

// column is where the help of options begins in WriteColumns.
const column = 28

// WriteColumns prints how to use a program without commands, in columns under
// headings, the way qemu-nbd does.
func (c *Command) WriteColumns(w io.Writer, prog string) {
	for i, line := range c.Usage {
		head := "Usage: "
		if i > 0 {
			head = "  or:  "
		}
		fmt.Fprintf(w, "%s%s %s\n", head, prog, line)
	}
	fmt.Fprintf(w, "%s.\n", c.Summary)
	group := "\x00"
	for _, o := range c.Options {
		if o.Group != group {
			fmt.Fprintln(w)
			if group = o.Group; group != "" {
				fmt.Fprintf(w, "%s:\n", group)
			}
		}
		name := "  " + o.Spelling
		if o.short == "" || strings.HasPrefix(o.Spelling, "--") {
			name = "      " + o.Spelling
		}
		if len(name) >= column {
			fmt.Fprintln(w, name)
			name = ""
		}
		indent := "\n" + strings.Repeat(" ", column)
		fmt.Fprintf(w, "%-*s%s\n", column, name, strings.ReplaceAll(o.Help, "\n", indent))
	}
	if c.About != "" {
		fmt.Fprintf(w, "\n%s\n", c.About)
	}
	if len(c.Examples) > 0 {
		fmt.Fprint(w, "\nExamples:\n")
		for _, e := range c.Examples {
			fmt.Fprintf(w, "  %s\n", strings.ReplaceAll(e, "PROGRAM", prog))
		}
	}
}

// Problems says what is wrong with the declarations: spellings that mean two things,
// options without help or that the usage does not show. It is for tests.
func (c *Command) Problems() (list []string) {
	owner := map[string]int{}
	usage := strings.FieldsFunc(strings.Join(c.Usage, " "), func(r rune) bool { return strings.ContainsRune(" []()|=", r) })
	for i, o := range c.Options {
		names := o.long
		for _, letter := range o.short {
			names = append(names, string(letter))
		}
		for _, name := range names {
			if other, taken := owner[name]; taken {
				list = append(list, fmt.Sprintf("%s: %q is declared by %q and %q", c.Name, name, c.Options[other].Spelling, o.Spelling))
			}
			owner[name] = i
		}
		if o.Help == "" || len(names) == 0 {
			list = append(list, fmt.Sprintf("%s: option %q has no name or no help", c.Name, o.Spelling))
		}
		if !slices.ContainsFunc(o.spellings(), func(s string) bool { return s == "--help" || slices.Contains(usage, s) }) && !slices.Contains(usage, "OPTIONS") {
			list = append(list, fmt.Sprintf("%s: the usage lacks %q", c.Name, o.Spelling))
		}
	}
	return list
}
