package testkit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Stop stops a process, and returns when none of its threads runs any more: the signal
// alone only asks for that. SIGCONT lets it go on.
func Stop(t testing.TB, p *os.Process) {
	t.Helper()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); !stopped(t, p.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d does not stop", p.Pid)
		}
	}
}

// stopped says whether all threads of a process are stopped, as proc_pid_stat(5) tells it.
func stopped(t testing.TB, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("process %d has no threads: %v", pid, err)
	}
	for _, name := range threads {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		if _, state, ok := bytes.Cut(text[bytes.LastIndexByte(text, ')'):], []byte(" ")); !ok || state[0] != 'T' {
			return false
		}
	}
	return true
}
