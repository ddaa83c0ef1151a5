package guestagent

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/guestagent/qmp"
)

// fakeFreezer counts what it is told.
type fakeFreezer struct {
	mu     sync.Mutex
	n      int64
	err    error
	thawed chan struct{}
}

func (f *fakeFreezer) Prepare(bool, []string) (func(context.Context) (int64, error), error) {
	return func(context.Context) (int64, error) { return f.n, f.err }, nil
}

func (f *fakeFreezer) Thaw() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.thawed != nil {
		close(f.thawed)
		f.thawed = nil
	}
	return f.n, nil
}

// ask sends a request to an agent and returns the reply.
func ask(t *testing.T, a *Agent, request string) string {
	t.Helper()
	var out bytes.Buffer
	s := a.NewSession(t.Context(), &out)
	if err := s.Feed([]byte(request)); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestHookBalance holds that the hook is told to thaw whenever it was told to freeze
// and nothing is frozen.
func TestHookBalance(t *testing.T) {
	for _, c := range []struct {
		name    string
		n       int64
		err     error
		hookErr error
		want    string
	}{
		{"nothing to freeze", 0, nil, nil, "freeze thaw"},
		{"freezing fails", 0, errors.New("no"), nil, "freeze thaw"},
		{"the hook fails", 1, nil, errors.New("no"), "freeze thaw"},
		{"frozen", 1, nil, nil, "freeze"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var calls []string
			a := NewAgent(Config{Freezer: &fakeFreezer{n: c.n, err: c.err}, Hook: func(_ context.Context, action string) error {
				calls = append(calls, action)
				if action == "freeze" {
					return c.hookErr
				}
				return nil
			}})
			ask(t, a, `{"execute":"guest-fsfreeze-freeze"}`)
			if got := strings.Join(calls, " "); got != c.want {
				t.Errorf("the hook was called with %q, want %q", got, c.want)
			}
			if a.Frozen() != (c.want == "freeze") {
				t.Errorf("frozen: %v", a.Frozen())
			}
		})
	}
}

// TestFreezeLimit thaws by itself.
func TestFreezeLimit(t *testing.T) {
	thawed := make(chan struct{})
	a := NewAgent(Config{Freezer: &fakeFreezer{n: 1, thawed: thawed}, FreezeLimit: time.Millisecond})
	if got := ask(t, a, `{"execute":"guest-fsfreeze-freeze"}`); got != "{\"return\": 1}\n" {
		t.Fatal(got)
	}
	select {
	case <-thawed:
	case <-time.After(time.Minute):
		t.Fatal("still frozen after the limit")
	}
	a.Close() // waits for the thaw to end
	if a.Frozen() {
		t.Error("still frozen")
	}
}

// TestFrozen holds that only few commands are allowed while frozen, and that nothing
// is logged.
func TestFrozen(t *testing.T) {
	log := &recorder{}
	a := NewAgent(Config{Freezer: &fakeFreezer{n: 1}, Log: log})
	ask(t, a, `{"execute":"guest-fsfreeze-freeze"}`)
	before := log.count()
	allowed := 0
	for _, c := range a.Commands() {
		if a.enabled(&c) {
			allowed++
		}
	}
	if allowed != 6 {
		t.Errorf("%d commands are allowed", allowed)
	}
	ask(t, a, `{"execute":"guest-ping"}`)
	if log.count() != before {
		t.Error("the agent logs while file systems are frozen")
	}
	if got := ask(t, a, `{"execute":"guest-file-open","arguments":{"path":"/dev/null"}}`); !strings.Contains(got, "has been disabled") {
		t.Error(got)
	}
}

type recorder struct {
	mu sync.Mutex
	n  int
}

func (r *recorder) add() { r.mu.Lock(); r.n++; r.mu.Unlock() }
func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}
func (r *recorder) Log(Level, string) { r.add() }
func (r *recorder) Account(string)    { r.add() }

// FuzzSession feeds an agent anything: it answers with whole lines.
func FuzzSession(f *testing.F) {
	for _, s := range []string{`{"execute":"guest-ping"}`, `[[[`, "\xff", `{'a':"\ud800"}`, `{"execute":"guest-sync","arguments":{"id":1,"b":2,"c":3}}`, `1e5 `} {
		f.Add([]byte(s))
	}
	a := NewAgent(Config{Policy: Policy{Allow: []string{"guest-ping", "guest-sync", "guest-sync-delimited", "guest-info"}}})
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		s := a.NewSession(context.Background(), &out)
		if err := s.Feed(data); err != nil {
			t.Fatal(err)
		}
		if out.Len() > 0 && out.Bytes()[out.Len()-1] != '\n' {
			t.Errorf("%q is answered with %q", data, out.Bytes())
		}
		// What is answered is in the dialect itself, but for numbers that are
		// infinite.
		r := qmp.NewReader(func(_ any, err error) {
			if err != nil && !bytes.Contains(out.Bytes(), []byte("inf")) && out.Bytes()[0] != Sentinel {
				t.Errorf("%q is answered with %q: %v", data, out.Bytes(), err)
			}
		})
		if !bytes.Contains(out.Bytes(), []byte{Sentinel}) {
			r.Feed(out.Bytes())
		}
	})
}
