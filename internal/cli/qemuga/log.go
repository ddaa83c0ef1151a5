package qemuga

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/guestagent"
)

// logger writes messages to standard error or a log file, and those about requests to
// the system's log.
type logger struct {
	mu      sync.Mutex
	w       io.Writer
	off     bool // nothing may be written: file systems are frozen
	verbose bool
	account accounter
}

// accounter takes messages for the system's log.
type accounter interface{ Info(message string) error }

// Log implements guestagent.Logger.
func (l *logger) Log(level guestagent.Level, message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.off || level > guestagent.LevelCritical && !l.verbose {
		return
	}
	now := time.Now()
	fmt.Fprintf(l.w, "%d.%06d: %s: %s\n", now.Unix(), now.Nanosecond()/1000, level, message)
}

// Account implements guestagent.Logger.
func (l *logger) Account(message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.off && l.account != nil {
		// A system without a log is no reason to fail.
		_ = l.account.Info("info: " + message)
	}
}

func (l *logger) critical(err error) { l.Log(guestagent.LevelCritical, err.Error()) }

// set changes where messages go.
func (l *logger) set(w io.Writer, off bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w != nil {
		l.w = w
	}
	l.off = off
}
