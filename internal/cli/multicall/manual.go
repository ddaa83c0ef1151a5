package multicall

import (
	"slices"

	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/qemuga"
)

// Pages are the manual pages, by the names of their files.
func Pages() map[string]*program.Page {
	p := Cowl(program.Streams{})
	server := server("cowl nbd", program.Streams{}, nil).Command()
	return map[string]*program.Page{
		"cowl.1": {
			Name: "cowl", Summary: "work with virtual disk images",
			Synopsis: []string{"[standard options] COMMAND [options] …", "help [COMMAND]", "version"},
			Description: []string{
				"cowl creates, inspects, checks, copies and changes virtual disk images, and serves them over the network. Called by the name qemu-img or qemu-nbd (a symbolic link), or by one that ends like these, it takes the command lines of those programs, prints what they print and exits as they exit.",
				"An image is a file name, the address of a server (nbd://HOST/EXPORT), json:{…}, or with --image-opts a list of options. Without --format the format of an image is found out by looking at it, which is not safe for images that others can write.",
				"Sizes are bytes, with an optional suffix: k (1024), M, G, T, P or E.",
			},
			Frame: p.Frame(),
			Commands: slices.DeleteFunc(p.Commands(), func(c *program.Command) bool {
				return c.Name == server.Name // has a page of its own
			}),
			ExitStatus: "0 for success and 1 for an error, where a command does not say otherwise. A command that a signal interrupts dies of it.",
			SeeAlso:    "cowl-nbd(1), cowl-incus(1), qemu-ga(8)",
		},
		"cowl-nbd.1": {
			Name: "cowl nbd", Summary: server.Summary,
			Synopsis:    server.Usage,
			Description: []string{"Serves a disk image over the Network Block Device protocol, or attaches it to a device of the kernel. Called by the name qemu-nbd, cowl does the same."},
			Frame:       server,
			ExitStatus:  "0 for success, also of a server that a signal asks to end, and 1 for an error.",
			SeeAlso:     "cowl(1)",
		},
		"qemu-ga.8": agentPage(),
	}
}

func agentPage() *program.Page {
	frame := &program.Command{}
	for _, e := range qemuga.Manual() {
		frame.Options = append(frame.Options, program.Option{Group: e.Group, Spelling: e.Spelling, Help: e.Help})
	}
	return &program.Page{
		Name: "qemu-ga", Section: 8, Summary: "guest agent: does what the host of a virtual machine asks for",
		Synopsis: []string{"[-m METHOD -p PATH] [OPTION…]"},
		Description: []string{
			"qemu-ga runs inside a virtual machine and answers requests of its host: it freezes file systems, tells about disks and addresses, sets the clock and passwords, and runs programs. It is QEMU's guest agent in one static file; cowl guest-agent, and cowl called by a name that ends in qemu-ga, are the same.",
			"A request is a JSON object like {\"execute\": \"guest-ping\"}. Arguments with a question mark may be left out.",
			"The configuration file has a group general with a key for each long option that sets something, such as path=/dev/ttyS0; what the command line says comes after it.",
		},
		Frame:      frame,
		ExitStatus: "0 after a signal asked the agent to end, and 1 for an error.",
		SeeAlso:    "cowl(1)",
	}
}
