package testkit

import (
	"os"
	"testing"
)

// Long says whether tests that have a short form run in full: with COWL_LONG=1 in
// the environment, as in the whole ./test.sh, and never with -short.
func Long() bool { return os.Getenv("COWL_LONG") == "1" && !testing.Short() }

// Sample says whether case i of many is run: all of them in the long form, else
// every so many.
func Sample(i, every int) bool { return Long() || i%every == 0 }
