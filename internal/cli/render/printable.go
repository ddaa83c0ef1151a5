package render

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Printable returns text with the characters that control a terminal escaped, as
// in "\x1b" and "\n": images and servers name things as they like, and what they
// name must not move the cursor or look like a line of our own. All other text,
// backslashes included, stays as it is. It is escaped wherever the output goes, since
// files end on terminals, too.
func Printable(text string) string { return printable(text, "") }

// PrintableLines is Printable for text of several lines.
func PrintableLines(text string) string { return printable(text, "\n\t") }

func printable(text, keep string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return controls(r) || r == utf8.RuneError }) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1:
			// A terminal that is not set to UTF-8 takes bytes from 0x80 to 0x9f for
			// controls.
			if c := text[0]; c < 0xa0 {
				fmt.Fprintf(&b, `\x%02x`, c)
			} else {
				b.WriteByte(c)
			}
		case !controls(r) || strings.ContainsRune(keep, r):
			b.WriteString(text[:n])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		text = text[n:]
	}
	return b.String()
}

// controls tells whether a terminal acts on a character instead of showing it: the
// control characters of ASCII and Latin-1, ends of lines, and what changes the
// direction of writing.
func controls(r rune) bool {
	return r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\u061c' || r == '\u200e' || r == '\u200f' ||
		r >= '\u2028' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
}
