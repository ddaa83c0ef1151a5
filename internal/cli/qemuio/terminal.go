package qemuio

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// terminal reads lines from a terminal, with editing, a history, and the names of
// commands completed by the tabulator. The terminal is as it was while a command runs.
func (s *session) terminal(f *os.File, prompt string) func() (string, bool) {
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{f, s.Data}, prompt)
	t.AutoCompleteCallback = func(line string, pos int, key rune) (string, int, bool) {
		if key != '\t' || pos != len(line) {
			return "", 0, false
		}
		done := s.complete(line)
		return done, len(done), true
	}
	return func() (string, bool) {
		state, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return "", false
		}
		line, err := t.ReadLine()
		if e := term.Restore(int(f.Fd()), state); err == nil {
			err = e
		}
		return line, err == nil
	}
}

// complete lengthens the beginning of a command's name as far as it is clear.
func (s *session) complete(start string) string {
	longest := ""
	for _, c := range s.commands {
		if !strings.HasPrefix(c.name, start) {
			continue
		}
		if longest == "" {
			longest = c.name
		}
		for !strings.HasPrefix(c.name, longest) {
			longest = longest[:len(longest)-1]
		}
	}
	if longest == "" {
		return start
	}
	return longest
}
