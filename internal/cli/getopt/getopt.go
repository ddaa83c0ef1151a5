// Package getopt reads command lines the way getopt_long of the GNU C library
// does, messages included: clustered short options, long options with "=" or
// the next word as argument, unambiguous abbreviations, options after operands,
// and "--" as the end of options.
package getopt

import (
	"fmt"
	"os"
	"strings"
)

// Arg says whether an option takes an argument.
type Arg uint8

// An option has no argument, a required one, or one that may follow the long
// name after "=".
const (
	NoArg Arg = iota
	HasArg
	MayHaveArg
)

// Option declares one option. Options with one ID are spellings of the same
// thing: an abbreviation that fits several of them is not ambiguous.
type Option struct {
	ID    int
	Long  string // without the dashes, "" if there is none
	Short byte   // 0 if there is none
	Arg   Arg
	// Exact: the long name is recognised in full only, so that it cannot make
	// an abbreviation of another ambiguous.
	Exact bool
}

// Parse reads args. It calls set for each option in order, with the argument,
// and returns the operands. prog begins the messages of errors. Parsing stops at
// the first error, one of set included. With the environment variable
// POSIXLY_CORRECT, options end at the first operand.
//
// A word after an operand may be an operand although it begins with a dash, such as a
// negative number: more is asked about each such word, with the operands so far. Nil
// means no.
func Parse(prog string, spec []Option, args []string, set func(id int, arg string) error,
	more func(operands []string, word string) bool) (operands []string, err error) {
	p := parser{prog: prog, spec: spec, set: set, rest: args}
	_, posix := os.LookupEnv("POSIXLY_CORRECT")
	for len(p.rest) > 0 {
		word := p.next()
		switch {
		case word == "--":
			return append(operands, p.rest...), nil
		case strings.HasPrefix(word, "--"):
			err = p.long(word[2:])
		case len(word) > 1 && word[0] == '-':
			err = p.short(word[1:])
		case posix:
			return append(append(operands, word), p.rest...), nil
		default:
			operands = append(operands, word)
			if more != nil && len(p.rest) > 0 && more(operands, p.rest[0]) {
				operands = append(operands, p.next())
			}
		}
		if err != nil {
			return operands, err
		}
	}
	return operands, nil
}

// Error is a mistake in the command line, as opposed to an error of set.
type Error struct{ msg string }

func (e *Error) Error() string { return e.msg }

type parser struct {
	prog string
	spec []Option
	set  func(int, string) error
	rest []string
}

func (p *parser) next() string {
	w := p.rest[0]
	p.rest = p.rest[1:]
	return w
}

func (p *parser) errorf(format string, args ...any) error {
	return &Error{p.prog + ": " + fmt.Sprintf(format, args...)}
}

func (p *parser) long(word string) error {
	name, val, hasVal := strings.Cut(word, "=")
	o, err := p.find(name)
	if err != nil {
		return err
	}
	switch {
	case o.Arg == NoArg && hasVal:
		return p.errorf("option '--%s' doesn't allow an argument", o.Long)
	case o.Arg == HasArg && !hasVal:
		if len(p.rest) == 0 {
			return p.errorf("option '--%s' requires an argument", o.Long)
		}
		val = p.next()
	}
	return p.set(o.ID, val)
}

// find looks a long option up by its name or an abbreviation.
func (p *parser) find(name string) (*Option, error) {
	var found *Option
	var possible []string
	ambiguous := false
	for i := range p.spec {
		o := &p.spec[i]
		if o.Long == "" || !strings.HasPrefix(o.Long, name) {
			continue
		}
		if o.Long == name {
			return o, nil
		}
		if o.Exact {
			continue
		}
		possible = append(possible, " '--"+o.Long+"'")
		if found == nil {
			found = o
		} else if found.ID != o.ID || found.Arg != o.Arg {
			ambiguous = true
		}
	}
	switch {
	case found == nil:
		return nil, p.errorf("unrecognized option '--%s'", name)
	case ambiguous:
		return nil, p.errorf("option '--%s' is ambiguous; possibilities:%s", name, strings.Join(possible, ""))
	}
	return found, nil
}

func (p *parser) short(word string) error {
	for i := 0; i < len(word); i++ {
		o := p.letter(word[i])
		if o == nil {
			return p.errorf("invalid option -- '%c'", word[i])
		}
		if o.Arg != HasArg {
			if err := p.set(o.ID, ""); err != nil {
				return err
			}
			continue
		}
		val := word[i+1:]
		if val == "" {
			if len(p.rest) == 0 {
				return p.errorf("option requires an argument -- '%c'", word[i])
			}
			val = p.next()
		}
		return p.set(o.ID, val)
	}
	return nil
}

func (p *parser) letter(c byte) *Option {
	for i := range p.spec {
		if p.spec[i].Short == c && c != 0 {
			return &p.spec[i]
		}
	}
	return nil
}
