package qemunbd

import (
	"errors"
	"fmt"
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

// check says what does not fit together.
func (s *settings) check(operands []string) error {
	switch {
	case s.list && len(operands) > 0:
		return errors.New("List mode is incompatible with a file name")
	case s.list && s.perDevice():
		return errors.New("List mode is incompatible with per-device settings")
	case s.list && s.fork:
		return errors.New("List mode is incompatible with forking")
	case !s.list && len(operands) != 1:
		return program.Usagef("Invalid number of arguments")
	case s.disconnect && (s.connect != "" || s.list):
		return program.Usagef("Invalid number of arguments")
	case s.tlsCreds == "" && s.tlsHostname != "":
		return errors.New("--tls-hostname is not permitted without --tls-creds")
	case s.tlsCreds == "" && s.tlsAuthz != "":
		return errors.New("--tls-authz is not permitted without --tls-creds")
	case s.tlsCreds != "" && s.connect != "":
		return errors.New("TLS is not supported when connected to device")
	case s.tlsCreds != "" && s.list && s.tlsAuthz != "":
		return errors.New("TLS authorization is incompatible with export list")
	case s.selinux != "" && s.socket == "":
		return errors.New("--selinux-label is not permitted without --socket")
	case s.imageOpts && s.format != "":
		return errors.New("--image-opts and -f are mutually exclusive")
	case s.detect == "unmap" && s.discard != "unmap":
		return errors.New("setting detect-zeroes to unmap is not allowed without setting discard operation to unmap")
	case s.aio == "native" && !s.cache.Direct && !s.list && !s.disconnect:
		return fmt.Errorf("Failed to blk_new_open '%s': aio=native was specified, but it requires cache.direct=on, which was not specified.", operands[0])
	case s.partition > 0 && s.hasOffset:
		return errors.New("--partition and --offset are mutually exclusive")
	}
	return nil
}

// perDevice says whether something was set that only makes sense for an image.
func (s *settings) perDevice() bool {
	return s.hasName || s.description != "" || s.hasOffset || s.hasCache || s.aio != "" || s.connect != "" || s.disconnect ||
		s.load.Given() || s.format != "" || len(s.bitmaps) > 0 || s.depth || s.partition > 0
}
