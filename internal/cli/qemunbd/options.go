package qemunbd

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/imageopt"
	"github.com/cowl-disk/cowl/internal/cli/object"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/nbd/kernel"
)

// settings are what the command line says.
type settings struct {
	port, bind, socket string
	hasPort            bool
	shared             int
	persistent         bool
	verbose            bool
	name               string
	hasName            bool
	description        string
	handshake          time.Duration
	offset             int64
	hasOffset          bool
	depth              bool
	bitmaps            []string
	partition          int
	list               bool
	objects            object.Set
	tlsCreds, tlsAuthz string
	tlsHostname        string
	fork               bool
	pidFile            string
	selinux            string
	connect            string
	disconnect         bool
	attach             kernel.Method
	format             string
	readOnly           bool
	snapshot           bool
	load               imageopt.Snapshot
	cache              driver.Cache
	hasCache           bool
	aio                string
	discard            string
	detect             string
	imageOpts          bool
}

const defaultPort = "10809"

func newSettings() *settings {
	return &settings{port: defaultPort, shared: 1, handshake: 10 * time.Second, discard: "ignore", detect: "off", objects: object.Set{IOThreads: true}}
}

// errDone ends the reading of options: all is said.
var errDone = errors.New("done")

// whole reads a number as strtol does, with hexadecimal and octal ones.
func whole(text string) (int64, error) { return strconv.ParseInt(strings.TrimLeft(text, " \t"), 0, 64) }

// rules say what does not go together.
func (s *settings) rules() []program.Rule {
	rule := program.Never
	needsTLS := func(given *string) func() bool { return func() bool { return s.tlsCreds == "" && *given != "" } }
	return []program.Rule{
		{Broken: func(operands []string) bool { return s.list && len(operands) > 0 }, Says: "List mode is incompatible with a file name"},
		rule(func() bool { return s.list && s.perDevice() }, "List mode is incompatible with per-device settings"),
		rule(func() bool { return s.list && s.fork }, "List mode is incompatible with forking"),
		{Broken: func(operands []string) bool { return !s.list && len(operands) != 1 }, Says: "Invalid number of arguments", Usage: true},
		{Broken: func([]string) bool { return s.disconnect && (s.connect != "" || s.list) }, Says: "Invalid number of arguments", Usage: true},
		rule(needsTLS(&s.tlsHostname), "--tls-hostname is not permitted without --tls-creds"),
		rule(needsTLS(&s.tlsAuthz), "--tls-authz is not permitted without --tls-creds"),
		rule(func() bool { return s.tlsCreds != "" && s.connect != "" }, "TLS is not supported when connected to device"),
		rule(func() bool { return s.tlsCreds != "" && s.list && s.tlsAuthz != "" }, "TLS authorization is incompatible with export list"),
		rule(func() bool { return s.selinux != "" && s.socket == "" }, "--selinux-label is not permitted without --socket"),
		rule(func() bool { return s.imageOpts && s.format != "" }, "--image-opts and -f are mutually exclusive"),
		rule(func() bool { return s.detect == "unmap" && s.discard != "unmap" }, "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"),
		rule(func() bool { return s.partition > 0 && s.hasOffset }, "--partition and --offset are mutually exclusive"),
	}
}

// perDevice says whether something was set that only makes sense for an image.
func (s *settings) perDevice() bool {
	return s.hasName || s.description != "" || s.hasOffset || s.hasCache || s.aio != "" || s.connect != "" || s.disconnect ||
		s.load.Given() || s.format != "" || len(s.bitmaps) > 0 || s.depth || s.partition > 0
}
