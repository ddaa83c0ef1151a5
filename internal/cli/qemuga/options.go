package qemuga

import (
	"path/filepath"
	"strings"
)

// argKind says whether an option has an argument.
type argKind uint8

const (
	noArg argKind = iota
	hasArg
	mayHaveArg
)

// option is an option of the command line. Options with one id are spellings of one.
type option struct {
	id    string // the long name
	short byte
	kind  argKind
	arg   string // what the help calls the argument
	help  string
}

// options are those of all versions of qemu-ga, and below them those of this program
// alone, which have no letter. Their order is that in which QEMU's are listed where an
// abbreviation is ambiguous.
var options = []option{
	{id: "help", short: 'h', help: "print this and exit"},
	{id: "version", short: 'V', help: "print the version and exit"},
	{id: "config", short: 'c', kind: hasArg, arg: "PATH", help: "configuration file, in the place of " + defaultConfig + " or of what the environment variable QGA_CONF names"},
	{id: "dump-conf", short: 'D', help: "print the configuration as a file and exit"},
	{id: "logfile", short: 'l', kind: hasArg, arg: "PATH", help: "log file, in the place of standard error"},
	{id: "pidfile", short: 'f', kind: hasArg, arg: "PATH", help: "pid file of a daemon: " + filepath.Join(defaultState, "qemu-ga.pid")},
	{id: "fsfreeze-hook", short: 'F', kind: mayHaveArg, arg: "PATH", help: "program to call with freeze and thaw: " + defaultHook + "; after -F the name follows without a space"},
	{id: "verbose", short: 'v', help: "log everything"},
	{id: "method", short: 'm', kind: hasArg, arg: "METHOD", help: "virtio-serial (the default), isa-serial, unix-listen or vsock-listen"},
	{id: "path", short: 'p', kind: hasArg, arg: "PATH", help: "device or socket; for virtio-serial " + defaultVirtio + ", for isa-serial " + defaultSerial + ", for vsock-listen CID:PORT"},
	{id: "daemonize", short: 'd', help: "become a daemon"},
	{id: "block-rpcs", short: 'b', kind: hasArg, arg: "LIST", help: "commands to block, separated by commas; help lists all commands"},
	{id: "allow-rpcs", short: 'a', kind: hasArg, arg: "LIST", help: "commands to allow: all others are blocked"},
	{id: "statedir", short: 't', kind: hasArg, arg: "PATH", help: "folder for what outlives the agent: " + defaultState},
	{id: "retry-path", short: 'r', help: "wait for a device that is not there, and open it again when it fails"},

	{id: "blacklist", kind: hasArg, arg: "LIST", help: "the same as --block-rpcs, as in older versions"},
	{id: "preset", kind: hasArg, arg: "safe", help: "block guest-exec, file access, passwords and SSH keys"},
	{id: "freeze-limit", kind: hasArg, arg: "TIME", help: "thaw by itself after this time (30s, 5m)"},
	{id: "hook-limit", kind: hasArg, arg: "TIME", help: "kill an fsfreeze hook that runs longer than this, with its children"},
	{id: "exec-output-limit", kind: hasArg, arg: "BYTES", help: "bytes kept of each stream that guest-exec captures"},
	{id: "exec-process-limit", kind: hasArg, arg: "N", help: "processes of guest-exec that are kept"},
	{id: "report-version", kind: hasArg, arg: "VERSION", help: "version that guest-info reports"},
}

// serviceOption is understood on Windows only.
var serviceOption = option{id: "service", short: 's', kind: hasArg, arg: "COMMAND", help: "install or uninstall the service"}

// spelling is how the help shows an option.
func (o *option) spelling() string {
	text := "--" + o.id
	if o.short != 0 {
		text = "-" + string(o.short) + ", " + text
	}
	switch o.kind {
	case hasArg:
		text += " " + o.arg
	case mayHaveArg:
		text += "[=" + o.arg + "]"
	}
	return text
}

// scanner reads a command line the way getopt_long does. Mistakes are reported and
// passed over.
type scanner struct {
	prog  string
	opts  []option
	rest  []string
	word  string // what is left of clustered short options
	wrong func(message string)
}

// next returns the next option; ok is false at the end. wrong was called if id is "?".
// given says that an argument is there.
func (s *scanner) next() (id, arg string, given, ok bool) {
	for s.word == "" {
		if len(s.rest) == 0 {
			return "", "", false, false
		}
		w := s.rest[0]
		s.rest = s.rest[1:]
		switch {
		case w == "--":
			s.rest = nil
			return "", "", false, false
		case strings.HasPrefix(w, "--"):
			return s.long(w[2:])
		case len(w) > 1 && w[0] == '-':
			s.word = w[1:]
		}
	}
	c := s.word[0]
	s.word = s.word[1:]
	for _, o := range s.opts {
		if o.short != c || c == 0 {
			continue
		}
		if o.kind == noArg {
			return o.id, "", false, true
		}
		arg, s.word = s.word, ""
		switch {
		case arg != "":
			return o.id, arg, true, true
		case o.kind == mayHaveArg:
			return o.id, "", false, true
		case len(s.rest) == 0:
			return s.mistake("option requires an argument -- '" + string(c) + "'")
		}
		arg, s.rest = s.rest[0], s.rest[1:]
		return o.id, arg, true, true
	}
	return s.mistake("invalid option -- '" + string(c) + "'")
}

func (s *scanner) mistake(text string) (id, arg string, given, ok bool) {
	s.wrong(s.prog + ": " + text)
	return "?", "", false, true
}

func (s *scanner) long(word string) (id, arg string, given, ok bool) {
	name, arg, given := strings.Cut(word, "=")
	var found []option
	for _, o := range s.opts {
		if o.id == name {
			found = []option{o}
			break
		}
		// What QEMU does not have is not abbreviated, so that its abbreviations
		// stay what they are.
		if strings.HasPrefix(o.id, name) && o.short != 0 {
			found = append(found, o)
		}
	}
	switch {
	case len(found) == 0:
		return s.mistake("unrecognized option '--" + word + "'")
	case len(found) > 1:
		text := "option '--" + name + "' is ambiguous; possibilities:"
		for _, o := range found {
			text += " '--" + o.id + "'"
		}
		return s.mistake(text)
	}
	o := found[0]
	switch {
	case o.kind == noArg && given:
		return s.mistake("option '--" + o.id + "' doesn't allow an argument")
	case o.kind == hasArg && !given:
		if len(s.rest) == 0 {
			return s.mistake("option '--" + o.id + "' requires an argument")
		}
		arg, s.rest = s.rest[0], s.rest[1:]
	}
	return o.id, arg, given || o.kind == hasArg, true
}
