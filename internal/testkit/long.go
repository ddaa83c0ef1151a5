package testkit

import (
	"os"
	"strconv"
	"testing"
)

// Long says whether tests that have a short form run in full: with COWL_LONG=1 in
// the environment, as in ./test.sh long, and never with -short.
func Long() bool { return os.Getenv("COWL_LONG") == "1" && !testing.Short() }

// Sample says whether case i of many is run: all of them in the long form, else
// every so many.
func Sample(i, every int) bool { return Long() || i%every == 0 }

// Count is how many random cases a test makes: everyday, or what the environment asks for
// (COWL_COUNT=200), whatever the form.
func Count(everyday int) int {
	if n, err := strconv.Atoi(os.Getenv("COWL_COUNT")); err == nil && n > 0 {
		return n
	}
	return everyday
}

// NoRace skips a test under the race detector, which has nothing to find where one
// goroutine works at a time; why says so. Without the detector it runs as ever.
func NoRace(t *testing.T, why string) {
	t.Helper()
	if Race {
		t.Skip("not under the race detector: " + why)
	}
}
