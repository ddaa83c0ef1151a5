package qemuimg

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/protocol/file"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// stalling is a protocol, "far:NAME", whose server stops to answer when an image is made. Without deaf, what is asked of
// it ends with its context, and what was made remains.
type stalling struct {
	silent
	asked chan struct{}
	deaf  chan struct{} // not nil: requests end when it is closed
}

func newStalling() *stalling {
	s := &stalling{silent: named("far"), asked: make(chan struct{}, 1)}
	s.desc.Schemes = []string{"far"}
	return s
}

// Create implements driver.Creator.
func (s *stalling) Create(ctx context.Context, req *driver.CreateRequest) error {
	s.asked <- struct{}{}
	if s.deaf != nil {
		<-s.deaf
		return ctx.Err()
	}
	<-ctx.Done()
	if req.Made != nil {
		*req.Made = true
	}
	return ctx.Err()
}

// commandsThatMake are command lines that make "far:x", two of them with the contents of a file.
func commandsThatMake(source string) map[string][]string {
	return map[string][]string{
		"create":  {"create", "-f", "raw", "far:x", "1M"},
		"dd":      {"dd", "-f", "raw", "-O", "raw", "if=" + source, "of=far:x"},
		"convert": {"convert", "-f", "raw", "-O", "raw", source, "far:x"},
	}
}

// interrupt runs a command, interrupts it when the server is asked to make an image, and returns what it says. died is
// called when the command dies of its signal.
func interrupt(t *testing.T, s *stalling, args []string, died func()) (code int, text string) {
	t.Helper()
	p, _, errs := testProgram("cowl")
	p.Drivers = []driver.Driver{file.New(), mem.New(), raw.New(), qcow2.New(), s}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := p.newCall(ctx)
	c.die = func(context.Context) { died() }
	builders := p.builders()
	c.cmd = c.declare(builders[slices.IndexFunc(builders, func(b builder) bool { return b.name == args[0] })].build)
	go func() {
		<-s.asked
		cancel()
	}()
	return c.run(args[1:]), errs.String()
}

func sourceFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, bytes.Repeat([]byte{1}, 64<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMakingInterrupted: each command that makes an image on a server dies of the signal that interrupted it where the
// server does not even let the making of the image end.
func TestMakingInterrupted(t *testing.T) {
	for name, args := range commandsThatMake(sourceFile(t)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStalling()
			s.deaf = make(chan struct{})
			died := false
			end := time.AfterFunc(time.Minute, func() { close(s.deaf) })
			_, text := interrupt(t, s, args, func() {
				if end.Stop() {
					died = true
					close(s.deaf)
				}
			})
			if want := "Interrupted; no answer in time: what was made may remain\n"; !died || !strings.Contains(text, want) {
				t.Errorf("it died: %v; it said %q", died, text)
			}
		})
	}
}

// TestRemainsOfMaking: each such command says what remains where the server does not take it back.
func TestRemainsOfMaking(t *testing.T) {
	for name, args := range commandsThatMake(sourceFile(t)) {
		code, text := interrupt(t, newStalling(), args, func() { t.Errorf("%s: it dies", name) })
		if want := "Interrupted; 'x' is incomplete and could not be removed: No answer in time\n"; code == 0 || !strings.HasSuffix(text, want) {
			t.Errorf("%s: code %d: %q", name, code, text)
		}
	}
}
