package testkit

import "testing"

// OneGoroutine skips a test under the race detector, which finds nothing where one
// goroutine works alone and takes ten times the time.
func OneGoroutine(t testing.TB) {
	if Race {
		t.Skip("one goroutine works alone: nothing for the race detector")
	}
}
