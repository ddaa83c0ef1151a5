package qemuga

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/internal/keyfile"
)

// config is what the configuration file and the command line say.
type config struct {
	daemon                                                           bool
	method, path, logfile, pidfile, hook, statedir                   string
	hasMethod, hasPath, hasLogfile, hasPidfile, hasHook, hasStatedir bool
	verbose, retry                                                   bool
	block, allow                                                     []string // in the reverse order of each list, as QEMU keeps them
	hasAllow                                                         bool
	preset                                                           string
	freezeLimit, hookLimit                                           time.Duration
	limits                                                           guestagent.Limits
	version                                                          string
	dumpOnly                                                         bool
	inherited                                                        bool // the listening socket comes from the service manager
}

// splitReversed splits a list; QEMU keeps it the other way round.
func splitReversed(s string) []string {
	if s == "" {
		return nil
	}
	list := strings.Split(s, ",")
	slices.Reverse(list)
	return list
}

func (c *config) allowList(s string) {
	list := splitReversed(s)
	c.hasAllow = c.hasAllow || len(list) > 0
	c.allow = append(c.allow, list...)
}

// load reads the configuration file. A file that is not there is an error if it was
// asked for.
func (c *config) load(name string, required bool) error {
	wrap := func(err error) error {
		return fmt.Errorf("error loading configuration from path: %s, %s", name, words.Text(err))
	}
	data, err := os.ReadFile(name)
	if errors.Is(err, syscall.EISDIR) {
		err = errors.New("Not a regular file")
	}
	if errors.Is(err, os.ErrNotExist) && !required {
		return nil
	}
	if err != nil {
		return wrap(guestagent.Cause(err))
	}
	f, err := keyfile.Parse(string(data))
	if err != nil {
		return wrap(err)
	}
	const group = "general"
	// QEMU reads all keys and reports the first error.
	keep := func(e error) {
		if err == nil {
			err = e
		}
	}
	boolean := func(key string, to *bool) {
		if _, ok := f.Value(group, key); ok {
			v, e := f.Bool(group, key)
			keep(e)
			*to = v
		}
	}
	text := func(key string, set func(string) error) {
		if _, ok := f.Value(group, key); ok {
			v, e := f.String(group, key)
			if e == nil {
				e = set(v)
			}
			keep(e)
		}
	}
	store := func(to *string, has *bool) func(string) error {
		return func(v string) error {
			*to, *has = v, true
			return nil
		}
	}
	boolean("daemon", &c.daemon)
	text("method", store(&c.method, &c.hasMethod))
	text("path", store(&c.path, &c.hasPath))
	text("logfile", store(&c.logfile, &c.hasLogfile))
	text("pidfile", store(&c.pidfile, &c.hasPidfile))
	text("fsfreeze-hook", store(&c.hook, &c.hasHook))
	text("statedir", store(&c.statedir, &c.hasStatedir))
	boolean("verbose", &c.verbose)
	boolean("retry-path", &c.retry)
	for _, key := range []string{"blacklist", "block-rpcs"} {
		text(key, func(v string) error { c.block = append(c.block, splitReversed(v)...); return nil })
	}
	text("allow-rpcs", func(v string) error { c.allowList(v); return nil })
	for _, key := range []string{"preset", "freeze-limit", "hook-limit", "exec-output-limit", "exec-process-limit", "report-version"} {
		text(key, func(v string) error { return c.extra(key, v) })
	}
	if err != nil {
		return wrap(err)
	}
	return nil
}

// extra sets what QEMU's agent does not have.
func (c *config) extra(key, value string) (err error) {
	number := func() (n int) {
		n, err = strconv.Atoi(value)
		if err == nil && n <= 0 {
			err = strconv.ErrRange
		}
		return n
	}
	switch key {
	case "preset":
		if c.preset = value; value != "safe" {
			return fmt.Errorf("unknown preset '%s': there is 'safe'", value)
		}
	case "freeze-limit":
		c.freezeLimit, err = time.ParseDuration(value)
	case "hook-limit":
		c.hookLimit, err = time.ParseDuration(value)
	case "exec-output-limit":
		c.limits.OutputBytes = number()
	case "exec-process-limit":
		c.limits.Processes = number()
	case "report-version":
		c.version = value
	}
	if err != nil || c.freezeLimit < 0 || c.hookLimit < 0 {
		return fmt.Errorf("'%s' is not a value for %s", value, key)
	}
	return nil
}

// unsafeCommands are those that the preset "safe" blocks: they run programs, touch
// files, or give access to the guest.
var unsafeCommands = []string{"guest-exec", "guest-exec-status", "guest-file-open", "guest-file-close", "guest-file-read",
	"guest-file-write", "guest-file-seek", "guest-file-flush", "guest-set-user-password",
	"guest-ssh-get-authorized-keys", "guest-ssh-add-authorized-keys", "guest-ssh-remove-authorized-keys"}

func (c *config) policy() guestagent.Policy {
	p := guestagent.Policy{Block: c.block}
	if c.hasAllow {
		p.Allow = c.allow
	}
	if c.preset == "safe" {
		p.Block = append(slices.Clone(p.Block), unsafeCommands...)
	}
	return p
}

// dump writes the configuration as a file.
func (c *config) dump(w io.Writer) {
	line := func(key, value string) { fmt.Fprintf(w, "%s=%s\n", key, keyfile.Escape(value)) }
	fmt.Fprintln(w, "[general]")
	line("daemon", strconv.FormatBool(c.daemon))
	line("method", c.method)
	if c.hasPath {
		line("path", c.path)
	}
	if c.hasLogfile {
		line("logfile", c.logfile)
	}
	line("pidfile", c.pidfile)
	if c.hasHook {
		line("fsfreeze-hook", c.hook)
	}
	line("statedir", c.statedir)
	line("verbose", strconv.FormatBool(c.verbose))
	line("retry-path", strconv.FormatBool(c.retry))
	line("block-rpcs", strings.Join(c.block, ","))
	line("allow-rpcs", strings.Join(c.allow, ","))
	for _, e := range []struct {
		key   string
		value string
		set   bool
	}{
		{"preset", c.preset, c.preset != ""},
		{"freeze-limit", c.freezeLimit.String(), c.freezeLimit != 0},
		{"hook-limit", c.hookLimit.String(), c.hookLimit != 0},
		{"exec-output-limit", strconv.Itoa(c.limits.OutputBytes), c.limits.OutputBytes != 0},
		{"exec-process-limit", strconv.Itoa(c.limits.Processes), c.limits.Processes != 0},
		{"report-version", c.version, c.version != Version},
	} {
		if e.set {
			line(e.key, e.value)
		}
	}
}
