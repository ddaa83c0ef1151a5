package program

import (
	"fmt"
	"slices"
	"strings"
)

// Option declares one option of a command: how it is spelled, what it sets and what
// the help says. Everything else follows from that.
type Option struct {
	// Spelling is what the help shows: the names and the name of the argument, as
	// in "-f, --format FMT", "--force" or "-p, --progress[=json]".
	Spelling string
	Help     string
	// Group is the heading of the help under which the option is.
	Group string
	// Values are what completion offers for the argument.
	Values []string
	// Set takes the argument, which is "" where there is none.
	Set func(arg string) error

	also    []string // spellings that the help does not show
	inFull  []string // long names that have no abbreviations
	hasArg  bool
	maybe   bool // the argument may be left out
	argName string
	short   string // letters
	long    []string
}

// newOption reads a spelling.
func newOption(spelling, help string, set func(string) error) Option {
	o := Option{Spelling: spelling, Help: help, Set: set}
	names := strings.Split(spelling, ", ")
	// The argument follows the last name.
	last := &names[len(names)-1]
	if end := strings.IndexAny(*last, " =["); end >= 0 {
		o.maybe = (*last)[end] == '['
		*last, o.argName = (*last)[:end], strings.Trim((*last)[end:], " []=")
		o.hasArg = !o.maybe
	}
	for _, name := range names {
		o.add(name)
	}
	return o
}

func (o *Option) add(name string) {
	if long, ok := strings.CutPrefix(name, "--"); ok {
		o.long = append(o.long, long)
		return
	}
	o.short += strings.TrimPrefix(name, "-")
}

// Flag declares an option without an argument, which sets v.
func Flag(v *bool, spelling, help string) Option {
	return newOption(spelling, help, func(string) error { *v = true; return nil })
}

// Text declares an option whose argument is taken as it is.
func Text(v *string, spelling, help string) Option {
	return newOption(spelling, help, func(arg string) error { *v = arg; return nil })
}

// Given declares an option whose argument may be empty, and for which it matters
// whether it was given: v is nil until then.
func Given(v **string, spelling, help string) Option {
	return newOption(spelling, help, func(arg string) error { *v = &arg; return nil })
}

// Func declares an option whose argument set reads.
func Func(spelling, help string, set func(arg string) error) Option {
	return newOption(spelling, help, set)
}

// Choice declares an option with one of a few words as argument, which set takes.
// what begins the message about another word, such as "--output".
func Choice(spelling, what, help string, set func(word string), words ...string) Option {
	o := newOption(spelling, help, func(arg string) error {
		if !slices.Contains(words, arg) {
			return Usagef("%s expects %s, not '%s'", what, quoted(words), arg)
		}
		set(arg)
		return nil
	})
	o.Values = words
	return o
}

// quoted lists words as "'a', 'b' or 'c'".
func quoted(words []string) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		b.WriteString("'" + w + "'")
	}
	return b.String()
}

// Also adds spellings that the help does not show: other versions have them.
func (o Option) Also(names ...string) Option {
	for _, n := range names {
		o.add(n)
		o.also = append(o.also, n)
	}
	return o
}

// AlsoInFull is Also for long names that are not abbreviated.
func (o Option) AlsoInFull(names ...string) Option {
	for _, n := range names {
		o.inFull = append(o.inFull, strings.TrimPrefix(n, "--"))
	}
	return o.Also(names...)
}

// InFull says that the long name which the help shows is not abbreviated, so that it
// cannot make an abbreviation of another option ambiguous.
func (o Option) InFull() Option {
	o.inFull = append(o.inFull, o.long[0])
	return o
}

// In puts the option under a heading of the help.
func (o Option) In(group string) Option {
	o.Group = group
	return o
}

// Offering lets completion offer words for the argument.
func (o Option) Offering(words ...string) Option {
	o.Values = words
	return o
}

// UsageError is a mistake in the command line; --help is suggested after it.
type UsageError struct{ msg string }

func (e *UsageError) Error() string { return e.msg }

// Usagef returns a UsageError.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }
