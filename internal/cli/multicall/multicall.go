// Package multicall chooses the program that a process is, by the name it was
// called by: one binary answers to the names of several.
package multicall

import (
	"context"
	"fmt"
	"os"

	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/qemuga"
	"github.com/cowl-disk/cowl/internal/cli/qemuimg"
	"github.com/cowl-disk/cowl/internal/cli/qemuio"
	"github.com/cowl-disk/cowl/internal/cli/qemunbd"
)

// Main runs the program that the arguments of the process ask for, and ends the process.
func Main() {
	// The agent has signals of its own: none may end it while file systems are frozen.
	if name, args, ok := agent(os.Args); ok {
		os.Exit(qemuga.Main(context.Background(), name, args, os.Stdin, os.Stdout, os.Stderr))
	}
	if len(os.Args) > 1 && os.Args[1] == "mount" && program.KindOf(program.Name(os.Args)) == program.Cowl {
		becomeMounter(os.Args)
	}
	run := func(ctx context.Context, s program.Streams) int { return Run(ctx, s, os.Args) }
	if reads(os.Args) {
		program.MainOfReader(run)
	}
	program.Main(run)
}

// reads reports whether args, the name first, ask for a command that is short and changes nothing.
func reads(args []string) bool {
	kind := program.KindOf(program.Name(args))
	return (kind == program.Image || kind == program.Cowl) && len(args) > 1 && args[1] == "info"
}

// agent reports whether args ask for the guest agent, the name first, and under which
// name with which arguments.
func agent(args []string) (name string, rest []string, ok bool) {
	switch {
	case program.KindOf(program.Name(args)) == program.Agent:
		return args[0], args[1:], true
	case program.KindOf(program.Name(args)) == program.Cowl && len(args) > 1 && args[1] == "guest-agent":
		return "cowl guest-agent", args[2:], true
	case program.KindOf(program.Name(args)) == program.Cowl && len(args) == 3 && args[1] == "help" && args[2] == "guest-agent":
		return "cowl guest-agent", []string{"--help"}, true
	}
	return "", nil, false
}

// Run runs the program that args ask for, the name first, and returns the exit code.
func Run(ctx context.Context, s program.Streams, args []string) int {
	if name, rest, ok := agent(args); ok {
		return qemuga.Main(ctx, name, rest, s.Stdin, s.Stdout, s.Stderr)
	}
	name := program.Name(args)
	if len(args) > 0 {
		args = args[1:]
	}
	switch program.KindOf(name) {
	case program.Image:
		return image(name, s).Run(ctx, args)
	case program.Server:
		return server(name, s, nil).Run(ctx, args)
	case program.Packer:
		return pack(ctx, s, name, args)
	case program.IO:
		return exerciser(name, s).Run(ctx, args)
	case program.Daemon:
		fmt.Fprintf(s.Stderr, "%s: not built into this version of cowl\n", name)
		return 1
	}
	switch {
	case len(args) > 0 && isPack(args[0]):
		return pack(ctx, s, "cowl", args)
	case len(args) == 2 && args[0] == "help" && isPack(args[1]):
		return pack(ctx, s, "cowl", []string{args[1], "--help"})
	case len(args) > 0 && args[0] == "io":
		return exerciser("cowl io", s).Run(ctx, args[1:])
	case len(args) == 2 && args[0] == "help" && args[1] == "io":
		return exerciser("cowl io", s).Run(ctx, []string{"--help"})
	case len(args) > 0 && args[0] == "nbd":
		return server("cowl nbd", s, args[:1]).Run(ctx, args[1:])
	case len(args) == 2 && args[0] == "help" && args[1] == "nbd":
		return server("cowl nbd", s, nil).Run(ctx, []string{"--help"})
	}
	return Cowl(s).Run(ctx, args)
}

// Cowl is the program by its own name, with the commands of all others.
func Cowl(s program.Streams) *qemuimg.Program {
	p := image("cowl", s)
	p.Others = func() []*program.Command { return others(s) }
	return p
}

// others are the commands of cowl that are programs of their own.
func others(s program.Streams) []*program.Command {
	nbd := server("cowl nbd", s, nil).Command()
	nbd.Summary = "Serve an image over NBD, or attach it to a kernel device"
	nbd.Usage = nbd.Usage[:1]
	guest := &program.Command{Name: "guest-agent", Summary: "Serve the host that runs this virtual machine, as qemu-ga does", Usage: []string{"[OPTIONS]"}}
	io := exerciser("cowl io", s).Command()
	io.Name = "io"
	return append(packs(), nbd, io, guest)
}

func image(name string, s program.Streams) *qemuimg.Program {
	return &qemuimg.Program{Name: name, Streams: s, Drivers: drivers.All()}
}

// exerciser does single requests.
func exerciser(name string, s program.Streams) *qemuio.Program {
	return &qemuio.Program{Name: name, Streams: s, Drivers: drivers.All()}
}

// server is the NBD server. prefix is the words before its options.
func server(name string, s program.Streams, prefix []string) *qemunbd.Program {
	return &qemunbd.Program{Name: name, Streams: s, Prefix: prefix, Drivers: drivers.All()}
}
