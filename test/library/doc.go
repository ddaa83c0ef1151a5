// Package library uses cowl from another module, as programs that import it do. Its test
// makes a program of each example of the root package, builds it here, and runs it.
package library

import (
	// Every package that an example imports comes from the main module.
	_ "github.com/cowl-disk/cowl"
)
