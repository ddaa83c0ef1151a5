package qemunbd

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/getopt"
	"github.com/cowl-disk/cowl/internal/cli/imageopt"
	"github.com/cowl-disk/cowl/internal/cli/object"
	"github.com/cowl-disk/cowl/nbd/kernel"
	"github.com/cowl-disk/cowl/nbd/wire"
	"github.com/cowl-disk/cowl/opts"
)

// The options, by number.
const (
	optHelp = iota + 1
	optVersion
	optPort
	optBind
	optSocket
	optShared
	optPersistent
	optVerbose
	optExportName
	optDescription
	optHandshakeLimit
	optOffset
	optAllocationDepth
	optBitmap
	optPartition
	optList
	optObject
	optTLSCreds
	optTLSAuthz
	optTLSHostname
	optTrace
	optFork
	optPIDFile
	optSELinuxLabel
	optConnect
	optDisconnect
	optAttach
	optFormat
	optReadOnly
	optSnapshot
	optLoadSnapshot
	optNoCache
	optCache
	optAIO
	optDiscard
	optDetectZeroes
	optImageOpts
)

var options = []getopt.Option{
	{ID: optHelp, Long: "help", Short: 'h'},
	{ID: optVersion, Long: "version", Short: 'V'},
	{ID: optPort, Long: "port", Short: 'p', Arg: getopt.HasArg},
	{ID: optBind, Long: "bind", Short: 'b', Arg: getopt.HasArg},
	{ID: optSocket, Long: "socket", Short: 'k', Arg: getopt.HasArg},
	{ID: optShared, Long: "shared", Short: 'e', Arg: getopt.HasArg},
	{ID: optPersistent, Long: "persistent", Short: 't'},
	{ID: optVerbose, Long: "verbose", Short: 'v'},
	{ID: optExportName, Long: "export-name", Short: 'x', Arg: getopt.HasArg},
	{ID: optDescription, Long: "description", Short: 'D', Arg: getopt.HasArg},
	{ID: optHandshakeLimit, Long: "handshake-limit", Arg: getopt.HasArg},
	{ID: optOffset, Long: "offset", Short: 'o', Arg: getopt.HasArg},
	{ID: optAllocationDepth, Long: "allocation-depth", Short: 'A'},
	{ID: optBitmap, Long: "bitmap", Short: 'B', Arg: getopt.HasArg},
	{ID: optPartition, Long: "partition", Short: 'P', Arg: getopt.HasArg, Exact: true},
	{ID: optList, Long: "list", Short: 'L'},
	{ID: optObject, Long: "object", Arg: getopt.HasArg},
	{ID: optTLSCreds, Long: "tls-creds", Arg: getopt.HasArg},
	{ID: optTLSAuthz, Long: "tls-authz", Arg: getopt.HasArg},
	{ID: optTLSHostname, Long: "tls-hostname", Arg: getopt.HasArg},
	{ID: optTrace, Long: "trace", Short: 'T', Arg: getopt.HasArg},
	{ID: optFork, Long: "fork"},
	{ID: optPIDFile, Long: "pid-file", Arg: getopt.HasArg},
	{ID: optSELinuxLabel, Long: "selinux-label", Arg: getopt.HasArg},
	{ID: optConnect, Long: "connect", Short: 'c', Arg: getopt.HasArg},
	{ID: optDisconnect, Long: "disconnect", Short: 'd'},
	{ID: optAttach, Long: "attach", Arg: getopt.HasArg, Exact: true},
	{ID: optFormat, Long: "format", Short: 'f', Arg: getopt.HasArg},
	{ID: optReadOnly, Long: "read-only", Short: 'r'},
	{ID: optSnapshot, Long: "snapshot", Short: 's'},
	{ID: optLoadSnapshot, Long: "load-snapshot", Short: 'l', Arg: getopt.HasArg},
	{ID: optNoCache, Long: "nocache", Short: 'n'},
	{ID: optCache, Long: "cache", Arg: getopt.HasArg},
	{ID: optAIO, Long: "aio", Arg: getopt.HasArg},
	{ID: optDiscard, Long: "discard", Arg: getopt.HasArg},
	{ID: optDetectZeroes, Long: "detect-zeroes", Arg: getopt.HasArg},
	{ID: optImageOpts, Long: "image-opts"},
}

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
	return &settings{port: defaultPort, shared: 1, handshake: 10 * time.Second, discard: "ignore", detect: "off"}
}

// errDone ends the reading of options: all is said.
var errDone = errors.New("done")

// whole reads a number as strtol does, with hexadecimal and octal ones.
func whole(text string) (int64, error) { return strconv.ParseInt(strings.TrimLeft(text, " \t"), 0, 64) }

// set takes one option. p prints help.
func (s *settings) set(p *Program, id int, arg string) (err error) {
	switch id {
	case optHelp:
		p.help()
		return errDone
	case optVersion:
		p.version()
		return errDone
	case optPort:
		s.port, s.hasPort = arg, true
	case optBind:
		s.bind = arg
	case optSocket:
		if !strings.HasPrefix(arg, "/") {
			return errors.New("socket path must be absolute")
		}
		s.socket = arg
	case optShared:
		n, err := whole(arg)
		if err != nil || n < 0 || n > math.MaxInt32 {
			return fmt.Errorf("Invalid shared device number '%s'", arg)
		}
		s.shared = int(n)
	case optPersistent:
		s.persistent = true
	case optVerbose:
		s.verbose = true
	case optExportName:
		if len(arg) > wire.MaxString {
			return fmt.Errorf("export name '%s' too long", arg)
		}
		s.name, s.hasName = arg, true
	case optDescription:
		if len(arg) > wire.MaxString {
			return fmt.Errorf("export description '%s' too long", arg)
		}
		s.description = arg
	case optHandshakeLimit:
		n, err := whole(arg)
		if err != nil || n < 0 || n > math.MaxUint32 {
			return fmt.Errorf("Invalid handshake limit '%s'", arg)
		}
		s.handshake = time.Duration(n) * time.Second
		if n == 0 {
			s.handshake = -1
		}
	case optOffset:
		if s.offset, err = opts.ParseSize(arg); err != nil {
			return fmt.Errorf("Invalid offset '%s'", arg)
		}
		s.hasOffset = true
	case optAllocationDepth:
		s.depth = true
	case optBitmap:
		s.bitmaps = append(s.bitmaps, arg)
	case optPartition:
		n, err := whole(arg)
		if err != nil || n < 1 || n > maxPartitions {
			return fmt.Errorf("Invalid partition '%s': partitions are numbered from 1 to %d", arg, maxPartitions)
		}
		s.partition = int(n)
	case optList:
		s.list = true
	case optObject:
		if err := s.objects.Define(arg, p.Stdout); err == object.ErrHelp {
			return errDone
		} else if err != nil {
			return err
		}
	case optTLSCreds:
		s.tlsCreds = arg
	case optTLSAuthz:
		s.tlsAuthz = arg
	case optTLSHostname:
		s.tlsHostname = arg
	case optTrace:
		return p.trace(arg)
	case optFork:
		s.fork = true
	case optPIDFile:
		s.pidFile = arg
	case optSELinuxLabel:
		s.selinux = arg
	case optConnect:
		s.connect = arg
	case optDisconnect:
		s.disconnect = true
	case optAttach:
		switch arg {
		case "auto":
		case "netlink":
			s.attach = kernel.Netlink
		case "ioctl":
			s.attach = kernel.Ioctl
		default:
			return fmt.Errorf("--attach expects 'auto', 'netlink' or 'ioctl', not '%s'", arg)
		}
	default:
		return s.setImage(id, arg)
	}
	return nil
}

// setImage takes an option that says how to open the image.
func (s *settings) setImage(id int, arg string) (err error) {
	switch id {
	case optFormat:
		s.format = arg
	case optReadOnly:
		s.readOnly = true
	case optSnapshot:
		s.snapshot = true
	case optLoadSnapshot:
		s.readOnly = true
		if s.load, err = imageopt.ParseSnapshot(arg); err != nil {
			first := err
			var two *imageopt.TwoErrors
			if errors.As(err, &two) {
				first = two.First
			}
			return &imageopt.TwoErrors{First: first, Second: fmt.Errorf("Failed in parsing snapshot param `%s'", arg)}
		}
	case optNoCache, optCache:
		if id == optNoCache {
			arg = "none"
		}
		if s.hasCache {
			return errors.New("-n and --cache can only be specified once")
		}
		var ok bool
		if s.cache, ok = imageopt.CacheMode(arg); !ok {
			return fmt.Errorf("Invalid cache mode `%s'", arg)
		}
		s.hasCache = true
	case optAIO:
		if s.aio != "" {
			return errors.New("--aio can only be specified once")
		}
		if arg != "native" && arg != "threads" && arg != "io_uring" {
			return fmt.Errorf("Invalid aio mode '%s'", arg)
		}
		s.aio = arg
	case optDiscard:
		switch arg {
		case "unmap", "on":
			s.discard = "unmap"
		case "ignore", "off":
			s.discard = "ignore"
		default:
			return fmt.Errorf("Invalid discard mode `%s'", arg)
		}
	case optDetectZeroes:
		if arg != "off" && arg != "on" && arg != "unmap" {
			return fmt.Errorf("Failed to parse detect_zeroes mode: invalid parameter value: %s", arg)
		}
		s.detect = arg
	case optImageOpts:
		s.imageOpts = true
	}
	return nil
}

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
		return &usageError{"Invalid number of arguments"}
	case s.disconnect && (s.connect != "" || s.list):
		return &usageError{"Invalid number of arguments"}
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

// usageError is a mistake in the command line. --help is suggested after it.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }
