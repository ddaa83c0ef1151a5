package render

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/cowl-disk/cowl/opts"
)

// sizeHelp follows the message about a value that is not a size.
const sizeHelp = "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."

// Error is the text of an error as users of qemu-img know it, without the name
// of the program: texts of the system begin with a capital letter, and hints
// ("Is another process using the image [x]?") stand on a line of their own.
func Error(err error) string {
	if err == nil {
		return ""
	}
	if errors.Is(err, context.Canceled) {
		return "Interrupted"
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "Timed out"
	}
	text := err.Error()
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) && pathErr.Op == "open" {
		text = strings.ReplaceAll(text, pathErr.Error(), "Could not open '"+pathErr.Path+"': "+pathErr.Err.Error())
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		if i := strings.LastIndex(text, no.Error()); i >= 0 {
			text = text[:i] + Strerror(no) + text[i+len(no.Error()):]
		}
	}
	var val *opts.ValueError
	if errors.As(err, &val) && strings.Contains(val.Want, "2^64") {
		text += "\n" + sizeHelp
	}
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		text += "\n" + hint.Hint()
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
	return Error(err)
}

// Strerror is the text of a system error as C programs print it.
func Strerror(no syscall.Errno) string {
	s := no.Error()
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}
