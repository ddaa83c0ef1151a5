package guestagent

import "fmt"

// Level is how much a message matters.
type Level uint8

// The levels, as GLib has them.
const (
	LevelCritical Level = iota
	LevelWarning
	LevelInfo
	LevelDebug
)

func (l Level) String() string {
	return [...]string{"critical", "warning", "info", "debug"}[l]
}

// Logger takes messages. Its methods are not called while file systems are frozen.
type Logger interface {
	// Log takes a message about the agent.
	Log(level Level, message string)
	// Account takes a message about what a host asked for, for the system's log.
	Account(message string)
}

type discard struct{}

func (discard) Log(Level, string) {}
func (discard) Account(string)    {}

// logf logs a message unless file systems are frozen: the log may be on one of them.
func (a *Agent) logf(level Level, format string, args ...any) {
	if !a.Frozen() {
		a.cfg.Log.Log(level, fmt.Sprintf(format, args...))
	}
}

func (a *Agent) account(format string, args ...any) {
	if !a.Frozen() {
		a.cfg.Log.Account(fmt.Sprintf(format, args...))
	}
}

// firstHandle is the first number of a file handle.
const firstHandle = 1000

// memoryState is the state of an agent that leaves nothing behind.
type memoryState struct{ next int64 }

func (s *memoryState) NextHandle() (int64, error) {
	s.next++
	return s.next - 1, nil
}

func (s *memoryState) SetFrozen(bool) error { return nil }
