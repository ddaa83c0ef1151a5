package testkit

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// emulated names the test that a process was started for by Emulated.
const emulated = "COWL_EMULATED"

// emulatorFault is what tells of a fault of the emulator itself: its own last word, or that
// of a kernel whose timers do not fire.
var emulatorFault = regexp.MustCompile(`qemu-system-\w+: .*: Assertion .* failed|rcu: .*kthread timer wakeup didn't happen`)

// Emulated reports whether a test that runs guests goes on here. If not, it has run the
// test in a process of its own, and the caller returns: a test that failed beside an
// emulator that failed by a fault of its own has told nothing, and runs again, up to three
// times.
func Emulated(t *testing.T) bool {
	t.Helper()
	if os.Getenv(emulated) == t.Name() {
		return true
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.count=1"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	if end, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+time.Until(end).String())
	}
	for try := 1; ; try++ {
		cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
		cmd.Env = append(os.Environ(), emulated+"="+t.Name())
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		text := string(out)
		switch {
		case err == nil && strings.Contains(text, "\n--- SKIP: "+t.Name()+" "):
			t.Skip(text)
		case err == nil && strings.Contains(text, "\n--- PASS: "+t.Name()+" "):
			return false
		case try < 3 && emulatorFault.MatchString(text):
			t.Logf("the emulator failed; once more, after:\n%s", text)
		default:
			t.Fatalf("%v\n%s", err, text)
		}
	}
}
