// Package qemunbd is the command line of the NBD server: qemu-nbd, also "cowl nbd".
package qemunbd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/getopt"
	"github.com/cowl-disk/cowl/internal/cli/imageopt"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/internal/version"
)

// Program is one run of the program.
type Program struct {
	// Name begins messages: "qemu-nbd", or "cowl nbd".
	Name string
	program.Streams
	Drivers []driver.Driver
	// Prefix are the words between the program and its options on the command
	// line: "nbd" in "cowl nbd".
	Prefix []string
}

// Run does what args (without the program's name) ask for and returns the exit
// code. When ctx ends a server drains: it answers the requests it has, flushes, and
// closes the image.
func (p *Program) Run(ctx context.Context, args []string) int {
	s := newSettings()
	c := p.command(s)
	operands, err := c.Parse(p.Name, args)
	if err == nil {
		err = c.Check(operands)
	}
	if err != nil {
		return p.fail(err)
	}
	switch {
	case s.list:
		err = p.list(ctx, s)
	case s.disconnect:
		err = p.disconnect(ctx, operands[0])
	case s.aio == "native" && !s.cache.Direct:
		err = fmt.Errorf("Failed to blk_new_open '%s': aio=native was specified, but it requires cache.direct=on, which was not specified.", operands[0])
	default:
		return p.runServer(ctx, s, operands[0], args)
	}
	if err != nil {
		return p.fail(err)
	}
	return 0
}

// fail reports an error and returns the exit code.
func (p *Program) fail(err error) int {
	var bad *getopt.Error
	var usage *program.UsageError
	var two *imageopt.TwoErrors
	switch {
	case err == errDone:
		return 0
	case errors.As(err, &bad):
		fmt.Fprintln(p.Stderr, err)
		fmt.Fprintf(p.Stderr, "%s: Try `%[1]s --help' for more information.\n", p.Name)
	case errors.As(err, &usage):
		fmt.Fprintf(p.Stderr, "%s: %v\n", p.Name, err)
		fmt.Fprintf(p.Stderr, "Try `%s --help' for more information.\n", p.Name)
	case errors.As(err, &two):
		p.fail(two.First)
		p.fail(two.Second)
	default:
		fmt.Fprintf(p.Stderr, "%s: %s\n", p.Name, render.Error(err))
	}
	return 1
}

func (p *Program) warnf(format string, args ...any) {
	fmt.Fprintf(p.Stderr, p.Name+": warning: "+format+"\n", args...)
}

func (p *Program) registry() *block.Registry { return block.NewRegistry(p.Drivers...) }

func (p *Program) version() {
	fmt.Fprintf(p.Stdout, "%s %s\n", p.Name, version.Full())
	fmt.Fprintln(p.Stdout, "A drop-in by the cowl project for the program of that name of the QEMU project")
}

// formats returns the names of the drivers.
func (p *Program) formats() []string {
	var names []string
	for _, d := range p.Drivers {
		if !d.Desc().NotBuiltIn {
			names = append(names, d.Desc().Name)
		}
	}
	slices.Sort(names)
	return names
}
