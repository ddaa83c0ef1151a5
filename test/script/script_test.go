package script

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cowl-disk/cowl/internal/cli/multicall"
)

// The test binary stands in for the program under each of its names.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cowl": multicall.Main, "qemu-img": multicall.Main, "qemu-nbd": multicall.Main})
}

// TestScripts runs the sessions of testdata. With COWL_UPDATE set, their golden
// output is rewritten.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("COWL_UPDATE") != "",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"truncate": cmdTruncate,
		},
	})
}

// cmdTruncate is "truncate SIZE FILE": it makes or cuts a file.
func cmdTruncate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: truncate SIZE FILE")
	}
	var size int64
	for _, c := range args[0] {
		if c < '0' || c > '9' {
			ts.Fatalf("truncate: %s is not a number", args[0])
		}
		size = size*10 + int64(c-'0')
	}
	f, err := os.OpenFile(ts.MkAbs(args[1]), os.O_CREATE|os.O_WRONLY, 0o644)
	ts.Check(err)
	ts.Check(f.Truncate(size))
	ts.Check(f.Close())
}
