package qemuga

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/internal/version"
)

// Entry is an option or a request in the help and in the manual.
type Entry struct{ Group, Spelling, Help string }

// Groups of entries; options of QEMU's agent have none.
const (
	ownOptions = "Beyond QEMU's agent, also as keys of the configuration file"
	requests   = "Requests"
)

// usage prints the help.
func (p *invocation) usage() {
	fmt.Fprintf(p.stdout, "Usage: %s [-m <method> -p <path>] [<options>]\nQEMU Guest Agent %s\n", p.name, version.Full())
	group := "-"
	for _, e := range p.entries() {
		if e.Group != group {
			group = e.Group
			fmt.Fprintln(p.stdout)
			if group != "" {
				fmt.Fprintf(p.stdout, "%s:\n", group)
			}
		}
		fmt.Fprintf(p.stdout, "  %s\n      %s\n", e.Spelling, e.Help)
	}
}

// options are those of this system.
func (p *invocation) options() []option {
	if serviceSupported {
		return append(slices.Clone(options), serviceOption)
	}
	return options
}

// entries are the options for the help.
func (p *invocation) entries() []Entry {
	var list []Entry
	for _, o := range p.options() {
		e := Entry{Spelling: o.spelling(), Help: o.help}
		if o.short == 0 {
			e.Group = ownOptions
		}
		list = append(list, e)
	}
	return list
}

// Manual returns what the manual lists: the options, and the requests that this system's
// agent answers.
func Manual() []Entry {
	p := &invocation{}
	list := p.entries()
	for _, c := range p.commands() {
		help := c.Summary + " (since " + c.Since + ")"
		if c.NoReply {
			help += "; only errors are answered"
		}
		list = append(list, Entry{requests, strings.Join(append([]string{c.Name}, c.Arguments()...), " "), help + "."})
	}
	return list
}
