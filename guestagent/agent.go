package guestagent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/guestagent/qmp"
)

// Policy says which commands a host may use.
type Policy struct {
	// Allow, if not nil, names the only commands that are allowed.
	Allow []string
	// Block names commands that are not allowed, whatever Allow says.
	Block []string
}

func (p *Policy) allows(name string) bool {
	return (p.Allow == nil || slices.Contains(p.Allow, name)) && !slices.Contains(p.Block, name)
}

// State is what outlives the agent's process.
type State interface {
	// NextHandle returns a number that no file handle had before.
	NextHandle() (int64, error)
	// SetFrozen marks that file systems are frozen, or no longer. A new agent that
	// finds the mark begins frozen.
	SetFrozen(frozen bool) error
}

// Limits bound what a host can make the agent keep. Zero values stand for the
// defaults.
type Limits struct {
	OutputBytes      int // captured of one stream of one process: 16 MiB
	TotalOutputBytes int // captured of all processes together: 256 MiB
	Processes        int // that run or that nobody asked about after their end: 1024
	Files            int // open file handles: 4096
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		n *int
		v int
	}{{&l.OutputBytes, 16 << 20}, {&l.TotalOutputBytes, 256 << 20}, {&l.Processes, 1024}, {&l.Files, 4096}} {
		if *d.n <= 0 {
			*d.n = d.v
		}
	}
	return l
}

// Config is what an agent is made of.
type Config struct {
	// Version is what guest-info reports.
	Version string
	// Commands are those of the system, beside the ones that every agent has.
	Commands []Command
	Policy   Policy
	Log      Logger // nil: nothing is logged
	State    State  // nil: nothing outlives the agent
	Limits   Limits

	// Freezer freezes file systems; without it there are no freezing commands.
	Freezer Freezer
	// Hook is called around freezing; nil if there is none.
	Hook Hook
	// FreezeLimit is the time after which frozen file systems are thawed, 0 for
	// no limit.
	FreezeLimit time.Duration
	// Frozen: file systems were left frozen by an agent before.
	Frozen bool
	// OnThaw, if not nil, is called when file systems are thawed, after the mark is
	// gone and before the hook.
	OnThaw func()
}

// Agent answers requests. Its methods may be called by several goroutines; commands
// run one after the other.
type Agent struct {
	cfg      Config
	commands map[string]*Command
	sorted   []Command
	allowed  map[string]bool
	files    fileTable
	exec     execTable

	run     sync.Mutex // held while a command runs
	delimit bool       // the next reply begins with the sentinel; under run
	freezes int        // counts those with a time limit; under run

	mu     sync.Mutex
	frozen bool
	timer  *time.Timer // thaws; nil if there is no limit
}

// NewAgent makes an agent.
func NewAgent(cfg Config) *Agent {
	if cfg.Log == nil {
		cfg.Log = discard{}
	}
	if cfg.State == nil {
		cfg.State = &memoryState{next: firstHandle}
	}
	cfg.Limits = cfg.Limits.withDefaults()
	a := &Agent{cfg: cfg, commands: map[string]*Command{}, allowed: map[string]bool{}, frozen: cfg.Frozen}
	a.files.init(a)
	a.exec.init(a)
	a.sorted = slices.Concat(a.infoCommands(), a.files.commands(), a.exec.commands(), cfg.Commands)
	if cfg.Freezer != nil {
		a.sorted = append(a.sorted, a.freezeCommands()...)
	}
	sortCommands(a.sorted)
	for i := range a.sorted {
		c := &a.sorted[i]
		a.commands[c.Name] = c
		a.allowed[c.Name] = cfg.Policy.allows(c.Name)
	}
	return a
}

// Commands returns all commands, in the order of QEMU's schema.
func (a *Agent) Commands() []Command { return a.sorted }

// Frozen reports whether file systems are frozen.
func (a *Agent) Frozen() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.frozen
}

// Close thaws what is frozen, and ends what belongs to the agent: files are closed;
// processes go on.
func (a *Agent) Close() {
	a.run.Lock()
	defer a.run.Unlock()
	if a.Frozen() {
		if _, err := a.thaw(); err != nil {
			a.account("failed to clean up frozen filesystems: %v", err)
		}
	}
	a.files.closeAll()
}

// errNotFound is the class of commands that are not there or not allowed.
type errNotFound struct{ desc string }

func (e *errNotFound) Error() string { return e.desc }

// enabled reports whether a command may be used now.
func (a *Agent) enabled(c *Command) bool {
	if a.Frozen() {
		return c.WhenFrozen
	}
	return a.allowed[c.Name]
}

// Handle answers one message of the stream: a value, or what was wrong with it. The
// reply ends with a line end; it is nil if there is nothing to say.
func (a *Agent) Handle(ctx context.Context, value any, err error) []byte {
	a.run.Lock()
	defer a.run.Unlock()
	var id any
	hasID := false
	var result any
	noReply := false
	if err == nil {
		if request, ok := value.(*qmp.Dict); ok {
			id, hasID = request.Get("id")
			result, noReply, err = a.dispatch(ctx, request)
		} else {
			err = errors.New("QMP input must be a JSON object")
		}
	}
	if err == nil && noReply {
		return nil
	}
	var p []byte
	if a.delimit {
		a.delimit = false
		p = append(p, Sentinel)
	}
	// The members "return", "id" and "error" are in QEMU's order: a reply begins
	// with "return", and an error comes after "id".
	p = append(p, '{')
	appendID := func() {
		if hasID {
			p = qmp.Append(append(p, `"id": `...), id)
		}
	}
	if err != nil {
		appendID()
		if hasID {
			p = append(p, ", "...)
		}
		p = appendError(p, err)
	} else {
		p = qmp.Marshal(append(p, `"return": `...), result)
		if hasID {
			p = append(p, ", "...)
		}
		appendID()
	}
	return append(p, "}\n"...)
}

func appendError(p []byte, err error) []byte {
	class := "GenericError"
	var nf *errNotFound
	if errors.As(err, &nf) {
		class = "CommandNotFound"
	}
	return qmp.Marshal(append(p, `"error": `...), errorReply{class, err.Error()})
}

type errorReply struct {
	Class string `qga:"class"`
	Desc  string `qga:"desc"`
}

// dispatch checks a request and runs its command.
func (a *Agent) dispatch(ctx context.Context, request *qmp.Dict) (result any, noReply bool, err error) {
	name, args, err := checkRequest(request)
	if err != nil {
		return nil, false, err
	}
	c := a.commands[name]
	if c == nil {
		return nil, false, &errNotFound{fmt.Sprintf("The command %s has not been found", name)}
	}
	if !a.enabled(c) {
		return nil, false, &errNotFound{fmt.Sprintf("Command %s has been disabled: the command is not allowed", name)}
	}
	result, err = c.run(ctx, args)
	return result, c.NoReply, err
}

// checkRequest looks at the members of a request in QEMU's order.
func checkRequest(request *qmp.Dict) (command string, args *qmp.Dict, err error) {
	args = &qmp.Dict{}
	found := false
	for key, v := range request.All() {
		var ok bool
		switch key {
		case "execute":
			if command, ok = v.(string); !ok {
				return "", nil, errors.New("QMP input member 'execute' must be a string")
			}
			found = true
		case "arguments":
			if args, ok = v.(*qmp.Dict); !ok {
				return "", nil, errors.New("QMP input member 'arguments' must be an object")
			}
		case "id":
		default:
			return "", nil, fmt.Errorf("QMP input member '%s' is unexpected", key)
		}
	}
	if !found {
		return "", nil, errors.New("QMP input lacks member 'execute'")
	}
	return command, args, nil
}
