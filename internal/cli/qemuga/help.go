package qemuga

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/internal/cli/program"
)

// Headings of the options in the help.
const (
	ownOptions = "Beyond QEMU's agent, also as keys of the configuration file"
	commands   = "Requests"
)

// usage prints the help.
func (p *invocation) usage() {
	fmt.Fprintf(p.stdout, "Usage: %s [-m <method> -p <path>] [<options>]\nQEMU Guest Agent %s\n", p.name, program.FullVersion())
	group := "-"
	for _, o := range p.declared() {
		if o.Group != group {
			group = o.Group
			fmt.Fprintln(p.stdout)
			if group != "" {
				fmt.Fprintf(p.stdout, "%s:\n", group)
			}
		}
		fmt.Fprintf(p.stdout, "  %s\n      %s\n", o.Spelling, o.Help)
	}
}

// options are those of this system.
func (p *invocation) options() []option {
	if serviceSupported {
		return append(slices.Clone(options), serviceOption)
	}
	return options
}

// declared are the options as the help and the manual show them.
func (p *invocation) declared() []program.Option {
	var list []program.Option
	for _, o := range p.options() {
		d := program.Option{Spelling: o.spelling(), Help: o.help}
		if o.short == 0 {
			d.Group = ownOptions
		}
		list = append(list, d)
	}
	return list
}

// Page is the manual page: the options and the requests that this system's agent
// answers.
func Page() *program.Page {
	p := &invocation{}
	frame := &program.Command{Options: p.declared()}
	for _, c := range p.commands() {
		help := c.Summary + " (since " + c.Since + ")"
		if c.NoReply {
			help += "; only errors are answered"
		}
		frame.Options = append(frame.Options, program.Option{Group: commands, Spelling: strings.Join(append([]string{c.Name}, c.Arguments()...), " "), Help: help + "."})
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
