// Command cowl works with virtual disk images. Called by the name qemu-img or
// qemu-nbd, it takes that program's command line; called as cowl, the same as
// commands ("cowl nbd" for the server), and some of its own.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/cli/qemuimg"
	"github.com/cowl-disk/cowl/internal/cli/qemunbd"
)

// gcPercent is how much garbage is let grow, of what is alive: mostly caches of
// tables, which cost the collector next to nothing.
const gcPercent = 50

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for an orderly end, the second one gets its way.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	name := "cowl"
	if len(args) > 0 {
		name = strings.TrimSuffix(filepath.Base(args[0]), ".exe")
		args = args[1:]
	}
	switch name {
	case "qemu-img":
	case "qemu-nbd":
		return runNBD(ctx, name, nil, args)
	case "qemu-ga", "qemu-io", "qemu-storage-daemon":
		fmt.Fprintf(os.Stderr, "%s: not built into this version of cowl\n", name)
		return 1
	default:
		name = "cowl"
		switch {
		case len(args) > 0 && args[0] == "nbd":
			return runNBD(ctx, "cowl nbd", args[:1], args[1:])
		case len(args) == 2 && args[0] == "help" && args[1] == "nbd":
			return runNBD(ctx, "cowl nbd", nil, []string{"--help"})
		}
	}
	p := &qemuimg.Program{Name: name, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Drivers: drivers.All()}
	if name == "cowl" {
		p.Others = []qemuimg.Other{{Name: "nbd", Summary: "Serve an image over NBD, or attach it to a kernel device"}}
	}
	return p.Run(ctx, args)
}

// runNBD runs the NBD server. prefix is what stood before its options.
func runNBD(ctx context.Context, name string, prefix, args []string) int {
	p := &qemunbd.Program{Name: name, Prefix: prefix, Version: qemuimg.OriginalVersion + " (cowl " + qemuimg.Version + ")",
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Drivers: drivers.All()}
	return p.Run(ctx, args)
}
