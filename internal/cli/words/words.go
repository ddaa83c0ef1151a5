// Package words makes the words in which users of QEMU know an error: libraries and
// drivers have messages of their own, in the style of Go, which keep their template
// and arguments (package message); here is QEMU's template for ours.
package words

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/cowl-disk/cowl/internal/message"
	"github.com/cowl-disk/cowl/opts"
)

// sizeHelp follows the message about a value that is not a size.
const sizeHelp = "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."

// Text is an error, with what it wraps, as users of qemu-img know it, without the name
// of the program. Hints ("Is another process using the image [x]?") are on lines of
// their own.
func Text(err error) string {
	if err == nil {
		return ""
	}
	if errors.Is(err, context.Canceled) {
		return "Interrupted"
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "Timed out"
	}
	text := phrase(err)
	var val *opts.ValueError
	if errors.As(err, &val) && strings.Contains(val.Want, "2^64") {
		text += "\n" + sizeHelp
	}
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		if h := hint.Hint(); h != "" {
			text += "\n" + h
		}
	}
	return text
}

// System is the text of the system error inside err alone ("Input/output
// error"), or of the whole error if there is none.
func System(err error) string {
	var no syscall.Errno
	if errors.As(err, &no) {
		return Strerror(no)
	}
	return Text(err)
}

// Strerror is the text of a system error as C programs print it.
func Strerror(no syscall.Errno) string { return upper(no.Error()) }

// phrase puts one error into words, and what it wraps within its text.
func phrase(err error) string {
	if no, ok := err.(syscall.Errno); ok {
		return Strerror(no)
	}
	if m, ok := err.(message.Message); ok {
		format, args := m.Template()
		shown := make([]any, len(args))
		for i, a := range args {
			shown[i] = arg(a)
		}
		return fmt.Sprintf(template(format), shown...)
	}
	if pe, ok := err.(*fs.PathError); ok && pe.Op == "open" {
		return "Could not open '" + pe.Path + "': " + phrase(pe.Err)
	}
	return within(err)
}

// template returns QEMU's template for one of ours.
func template(format string) string {
	format = strings.ReplaceAll(format, "%w", "%v")
	if theirs, ok := qemu()[format]; ok {
		return theirs
	}
	if slices.Contains(small, format) || !beginsWithWord(format) {
		return format
	}
	return upper(format)
}

// beginsWithWord says whether a message begins with an ordinary word: not with a name
// ("qcow2: …", "LUKS …", "data-file=…"), a quotation or an argument.
func beginsWithWord(s string) bool {
	word, _, _ := strings.Cut(s, " ")
	word = strings.TrimRight(word, ",\n")
	for _, r := range word {
		if (r < 'a' || r > 'z') && r != '\'' && r != '-' {
			return false
		}
	}
	return word != "" && word[0] != '\'' && word[0] != '-'
}

// within is the text of an error without a template. It is as it is, but for the
// errors that it wraps.
func within(err error) string {
	text := err.Error()
	var inner []error
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if in := e.Unwrap(); in != nil {
			if i := strings.LastIndex(text, in.Error()); i >= 0 {
				return text[:i] + phrase(in) + text[i+len(in.Error()):]
			}
		}
	case interface{ Unwrap() []error }:
		inner = e.Unwrap()
	}
	var b strings.Builder
	for _, in := range inner {
		if in == nil {
			continue
		}
		before, after, found := strings.Cut(text, in.Error())
		if found {
			b.WriteString(before + phrase(in))
			text = after
		}
	}
	return b.String() + text
}

// arg is an argument as a template of QEMU gets it: an error in words.
func arg(a any) any {
	switch a := a.(type) {
	case error:
		return worded{a, phrase(a)}
	case string:
		return plain(a)
	}
	return a
}

// worded prints as words where a text is asked for.
type worded struct {
	err  error
	text string
}

// Format implements fmt.Formatter.
func (w worded) Format(f fmt.State, verb rune) {
	switch verb {
	case 'v', 's', 'q':
		fmt.Fprintf(f, fmt.FormatString(f, verb), w.text)
	default:
		fmt.Fprintf(f, fmt.FormatString(f, verb), w.err)
	}
}

// plain is a string that %+s prints with a capital.
type plain string

// Format implements fmt.Formatter.
func (p plain) Format(f fmt.State, verb rune) {
	if verb == 's' && f.Flag('+') {
		fmt.Fprint(f, upper(string(p)))
		return
	}
	fmt.Fprintf(f, fmt.FormatString(f, verb), string(p))
}

// upper returns s with a capital first letter.
func upper(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}
