package qemuga

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/internal/version"
)

// Version is the version of QEMU's agent whose behaviour this is, which guest-info
// reports.
const Version = version.Original

// gcPercent is the GC target. The agent mostly waits: memory matters more than speed.
const gcPercent = 50

// invocation is one run of the program.
type invocation struct {
	name           string
	args           []string
	stdout, stderr io.Writer
	cfg            config
	log            *logger
	signals        chan os.Signal // end the agent
}

// Main runs the agent: name is what the program was called by. It returns the exit
// code. Signals end it as they end QEMU's agent: not while file systems are frozen.
func Main(ctx context.Context, name string, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	p := &invocation{name: name, args: args, stdout: stdout, stderr: stderr}
	p.cfg = config{version: Version}
	code, done := p.parse()
	if done {
		return code
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	return p.run(ctx)
}

// early reports an error before there is a log, in the form of GLib's own messages.
func (p *invocation) early(err error) int {
	// GLib shows what is not ASCII as "?" in the C locale, which the agent has.
	text := strings.Map(func(r rune) rune {
		if r > 0x7E {
			return '?'
		}
		return r
	}, err.Error())
	fmt.Fprintf(p.stderr, "\n** (process:%d): CRITICAL **: %s: %s\n", os.Getpid(), time.Now().Format("15:04:05.000"), text)
	return 1
}

// parse reads the command line and the configuration file. done says that there is no
// more to do.
func (p *invocation) parse() (code int, done bool) {
	// QEMU reads the command line twice: first for the configuration file only.
	file, required := os.Getenv("QGA_CONF"), false
	if _, ok := os.LookupEnv("QGA_CONF"); !ok {
		file = defaultConfig
	}
	scan := func(each func(id, arg string, given bool) (int, bool)) (int, bool) {
		s := &scanner{prog: p.name, opts: p.options(), rest: p.args, wrong: func(m string) { fmt.Fprintln(p.stderr, m) }}
		for {
			id, arg, given, ok := s.next()
			if !ok {
				return 0, false
			}
			if code, done := each(id, arg, given); done {
				return code, true
			}
		}
	}
	scan(func(id, arg string, _ bool) (int, bool) {
		if id == "config" {
			file, required = arg, true
		}
		return 0, false
	})
	if err := p.cfg.load(file, required); err != nil {
		return p.early(err), true
	}
	if code, done := scan(p.option); done {
		return code, true
	}
	return p.complete()
}

// option takes one option of the command line.
func (p *invocation) option(id, arg string, given bool) (code int, done bool) {
	c := &p.cfg
	switch id {
	case "method":
		c.method, c.hasMethod = arg, true
	case "path":
		c.path, c.hasPath = arg, true
	case "logfile":
		c.logfile, c.hasLogfile = arg, true
	case "pidfile":
		c.pidfile, c.hasPidfile = arg, true
	case "fsfreeze-hook":
		if c.hook, c.hasHook = arg, true; !given {
			c.hook = defaultHook
		}
	case "statedir":
		c.statedir, c.hasStatedir = arg, true
	case "verbose":
		c.verbose = true
	case "version":
		fmt.Fprintf(p.stdout, "QEMU Guest Agent %s\n", version.Full())
		return 0, true
	case "daemonize":
		c.daemon = true
	case "dump-conf":
		c.dumpOnly = true
	case "retry-path":
		c.retry = true
	case "block-rpcs", "blacklist", "allow-rpcs":
		if arg == "help" || arg == "?" {
			for _, cmd := range p.commands() {
				fmt.Fprintln(p.stdout, cmd.Name)
			}
			return 0, true
		}
		if id == "allow-rpcs" {
			c.allowList(arg)
		} else {
			c.block = append(c.block, splitReversed(arg)...)
		}
	case "service":
		return p.service(arg), true
	case "help":
		p.usage()
		return 0, true
	case "?":
		fmt.Fprintf(p.stdout, "Unknown option, try '%s --help' for more information.\n", p.name)
		return 1, true
	case "config":
	default:
		if err := c.extra(id, arg); err != nil {
			fmt.Fprintf(p.stderr, "%s: %v\n", p.name, err)
			return 1, true
		}
	}
	return 0, false
}

// commands returns all commands of this system.
func (p *invocation) commands() []guestagent.Command {
	s := newSystem()
	return guestagent.NewAgent(guestagent.Config{Commands: s.commands, Freezer: s.freezer}).Commands()
}

// complete fills in the defaults and does what needs no agent.
func (p *invocation) complete() (code int, done bool) {
	c := &p.cfg
	if !c.hasPidfile {
		c.pidfile = filepath.Join(defaultState, "qemu-ga.pid")
	}
	if !c.hasStatedir {
		c.statedir = defaultState
	}
	if !c.hasMethod {
		c.method = "virtio-serial"
	}
	n, method, err := inheritedSockets()
	switch {
	case err != nil:
		return p.early(err), true
	case n > 1:
		return p.early(errors.New("qemu-ga only supports listening on one socket")), true
	case n == 1:
		c.method, c.path, c.hasPath, c.inherited = method, "", false, true
	case !c.hasPath && c.method == "virtio-serial":
		c.path, c.hasPath = defaultVirtio, true
	case !c.hasPath && c.method == "isa-serial":
		c.path, c.hasPath = defaultSerial, true
	case !c.hasPath:
		return p.early(errors.New("must specify a path for this channel")), true
	}
	if c.dumpOnly {
		c.dump(p.stdout)
		return 0, true
	}
	return 0, false
}
