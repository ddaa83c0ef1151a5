package guestagent

import (
	"context"
	"reflect"
	"slices"

	"github.com/cowl-disk/cowl/guestagent/qmp"
)

// Command is a command of the agent. Make one with New.
type Command struct {
	Name    string
	Since   string // the version of qemu-ga that had it first
	Summary string // one line for the manual
	// NoReply: success is not answered, errors are.
	NoReply bool
	// WhenFrozen: allowed while file systems are frozen.
	WhenFrozen bool

	args   reflect.Type
	result reflect.Type
	run    func(ctx context.Context, args *qmp.Dict) (any, error)
}

// None is the type of no arguments, and of a reply that says nothing.
type None struct{}

// New makes a command of a function. A is a struct with a tagged field for each
// argument, R is what the reply holds. The other fields of the command are to be set
// on the result.
func New[A, R any](name, since, summary string, f func(ctx context.Context, args A) (R, error)) Command {
	return Command{
		Name: name, Since: since, Summary: summary,
		args: reflect.TypeFor[A](), result: reflect.TypeFor[R](),
		run: func(ctx context.Context, dict *qmp.Dict) (any, error) {
			var args A
			if err := decodeArgs(dict, reflect.ValueOf(&args).Elem()); err != nil {
				return nil, err
			}
			return f(ctx, args)
		},
	}
}

// Arguments returns the names of the arguments, optional ones with a "?".
func (c *Command) Arguments() []string {
	var names []string
	for _, f := range qmp.Fields(c.args) {
		name := f.Name
		if f.Optional {
			name += "?"
		}
		names = append(names, name)
	}
	return names
}

// schemaOrder has all commands in the order of QEMU's schema, which lists show.
var schemaOrder = []string{
	"guest-sync-delimited", "guest-sync", "guest-ping", "guest-get-time", "guest-set-time", "guest-info", "guest-shutdown",
	"guest-file-open", "guest-file-close", "guest-file-read", "guest-file-write", "guest-file-seek", "guest-file-flush",
	"guest-fsfreeze-status", "guest-fsfreeze-freeze", "guest-fsfreeze-freeze-list", "guest-fsfreeze-thaw", "guest-fstrim",
	"guest-suspend-disk", "guest-suspend-ram", "guest-suspend-hybrid", "guest-network-get-interfaces",
	"guest-get-vcpus", "guest-set-vcpus", "guest-get-disks", "guest-get-fsinfo", "guest-set-user-password",
	"guest-get-memory-blocks", "guest-set-memory-blocks", "guest-get-memory-block-info", "guest-exec-status", "guest-exec",
	"guest-get-host-name", "guest-get-users", "guest-get-timezone", "guest-get-osinfo", "guest-get-devices",
	"guest-ssh-get-authorized-keys", "guest-ssh-add-authorized-keys", "guest-ssh-remove-authorized-keys",
	"guest-get-diskstats", "guest-get-cpustats", "guest-get-load", "guest-network-get-route",
}

// sortCommands brings commands into the order of the schema. Commands that QEMU does
// not have come last.
func sortCommands(commands []Command) {
	place := func(c Command) int {
		if i := slices.Index(schemaOrder, c.Name); i >= 0 {
			return i
		}
		return len(schemaOrder)
	}
	slices.SortStableFunc(commands, func(a, b Command) int { return place(a) - place(b) })
}
