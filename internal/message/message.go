// Package message makes errors that keep the template and the arguments of their
// text, so that a command line can say the same in other words. The text itself is
// in the style of Go: lower case, no full stop.
package message

import (
	"errors"
	"fmt"
	"strings"
)

// Message is an error whose text is made of a template, as fmt.Errorf takes it, and
// arguments. Errors that a user of the command lines can see implement it.
type Message interface {
	error
	Template() (format string, args []any)
}

// formatted is an error of Errorf.
type formatted struct {
	kind   error // may be nil
	err    error // of fmt.Errorf: the text, and what %w wraps
	format string
	args   []any
}

func (e *formatted) Error() string             { return e.err.Error() }
func (e *formatted) Template() (string, []any) { return e.format, e.args }

func (e *formatted) Unwrap() []error {
	if e.kind == nil {
		return []error{e.err}
	}
	return []error{e.kind, e.err}
}

// Errorf makes an error that reads as the formatted message alone and that
// errors.Is recognises as kind; %w works as in fmt.Errorf. With a nil kind it is only
// what %w wraps. The arguments are kept, and must not change.
func Errorf(kind error, format string, args ...any) error {
	return &formatted{kind: kind, err: textOf(format, args), format: format, args: args}
}

// textOf is fmt.Errorf. Most messages without arguments are those of variables of packages, made when a program
// starts: fmt need not look through them.
func textOf(format string, args []any) error {
	if len(args) == 0 && !strings.Contains(format, "%") {
		return errors.New(format)
	}
	return fmt.Errorf(format, args...)
}

// Text is the text of a type that implements Message, for its method Error. The
// template has no %w.
func Text(m Message) string {
	format, args := m.Template()
	return fmt.Sprintf(format, args...)
}
