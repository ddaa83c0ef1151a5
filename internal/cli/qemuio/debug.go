package qemuio

import (
	"strconv"
	"syscall"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/words"
)

func debugCommands() []*command {
	return []*command{
		{name: "break", min: 2, max: 2, args: "event tag", about: "sets a breakpoint on event and tags the stopped request as tag", run: (*session).setBreak},
		{name: "remove_break", min: 1, max: 1, args: "tag", about: "remove a breakpoint by tag", run: (*session).removeBreak},
		{name: "resume", min: 1, max: 1, args: "tag", about: "resumes the request tagged as tag", run: (*session).resume},
		{name: "wait_break", min: 1, max: 1, args: "tag", about: "waits for the suspension of a request", run: (*session).waitBreak},
		{name: "abort", anytime: true, about: "simulate a program crash using abort(3)", run: func(*session, *command, []string) error {
			return raise(syscall.SIGABRT)
		}},
		{name: "sigraise", min: 1, max: 1, anytime: true, args: "signal", about: "raises a signal", run: (*session).sigraise,
			help: " 'sigraise 15' sends this process the signal of that number.\n"},
	}
}

// breaker returns the node of the open image that has breakpoints: a filter for tests.
func (s *session) breaker() driver.Breaker {
	for img := s.img; img != nil; {
		if b, ok := block.Ability[driver.Breaker](img); ok {
			return b
		}
		next := img.Tree().PassedThrough()
		if next == nil {
			next = img.Tree().File()
		}
		img = next
	}
	return nil
}

func (s *session) setBreak(_ *command, args []string) error {
	err := error(syscall.ENOTSUP)
	if b := s.breaker(); b != nil {
		s.breakpoints = true
		err = b.Break(args[0], args[1], func(text string) { s.printf("%s\n", text) })
	}
	if err != nil {
		return s.failf("Could not set breakpoint: %s", reason(err))
	}
	return nil
}

func (s *session) removeBreak(_ *command, args []string) error {
	err := error(syscall.ENOTSUP)
	if b := s.breaker(); b != nil {
		err = b.RemoveBreak(args[0])
	}
	if err != nil {
		return s.failf("Could not remove breakpoint %s: %s", args[0], reason(err))
	}
	return nil
}

// resume lets a request go on. What it still does, it does before the next command, as
// far as nothing else stops it.
func (s *session) resume(_ *command, args []string) error {
	err := error(syscall.ENOTSUP)
	if b := s.breaker(); b != nil {
		err = b.Resume(args[0])
	}
	if err != nil {
		return s.failf("Could not resume request: %s", reason(err))
	}
	return nil
}

func (s *session) waitBreak(_ *command, args []string) error {
	b := s.breaker()
	if b == nil {
		return s.failf("Could not wait for breakpoint: %s", words.Strerror(syscall.ENOTSUP))
	}
	if err := b.WaitBreak(s.ctx, args[0]); err != nil {
		return errFailed
	}
	return nil
}

func (s *session) sigraise(_ *command, args []string) error {
	n, err := s.number(args[0])
	if err != nil {
		return err
	}
	if n > 65 {
		return s.failf("signal argument '%s' is too large to be a valid signal", args[0])
	}
	if err := raise(syscall.Signal(n)); err != nil {
		return s.errorf("signal %s: %s", strconv.FormatInt(n, 10), words.System(err))
	}
	return nil
}
