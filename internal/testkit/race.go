//go:build race

package testkit

// Race tells whether the race detector is on, under which tests do less.
const Race = true
