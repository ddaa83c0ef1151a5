package qemunbd

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/internal/cli/imageopt"
	"github.com/cowl-disk/cowl/internal/cli/object"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/nbd/kernel"
	"github.com/cowl-disk/cowl/nbd/wire"
	"github.com/cowl-disk/cowl/opts"
)

// Command declares the command line of the server. It has no Run: Program.Run does
// the work.
func (p *Program) Command() *program.Command { return p.command(newSettings()) }

// command declares the options, which set s.
func (p *Program) command(s *settings) *program.Command {
	c := &program.Command{
		Rules: s.rules(),
		Name:  "nbd", Summary: "Serve a disk image over the Network Block Device protocol",
		Usage: []string{"[OPTIONS] FILE", "-L [OPTIONS]", "-d DEV"},
		Examples: []string{
			"PROGRAM -t -e 4 -k /run/disk.sock -f qcow2 disk.qcow2",
			"PROGRAM --fork --pid-file=/run/nbd.pid -r -f raw disk.raw",
			"PROGRAM -c /dev/nbd0 -f qcow2 disk.qcow2 && mount /dev/nbd0p1 /mnt",
			"PROGRAM -L -b server.example -p 10809",
		},
	}
	c.Options = append(c.Options,
		program.Func("-h, --help", "print this help and exit", func(string) error {
			c.WriteColumns(p.Stdout, p.Name)
			return errDone
		}),
		program.Func("-V, --version", "print the version and exit", func(string) error {
			p.version()
			return errDone
		}))
	for _, group := range []struct {
		name    string
		options []program.Option
	}{
		{"Where to listen", s.listenOptions()},
		{"What part of the image", s.partOptions()},
		{"General", s.generalOptions(p)},
		{"Kernel devices", s.deviceOptions()},
		{"The image", s.imageOptions(p)},
	} {
		for _, o := range group.options {
			c.Options = append(c.Options, o.In(group.name))
		}
	}
	return c
}

func (s *settings) listenOptions() []program.Option {
	return []program.Option{
		program.Func("-p, --port=PORT", "TCP port (default 10809)", func(arg string) error {
			s.port, s.hasPort = arg, true
			return nil
		}),
		program.Text(&s.bind, "-b, --bind=IFACE", "address to listen on (default 0.0.0.0; :: for IPv6)"),
		program.Func("-k, --socket=PATH", "listen on a Unix socket instead", func(arg string) error {
			if !strings.HasPrefix(arg, "/") {
				return errors.New("socket path must be absolute")
			}
			s.socket = arg
			return nil
		}),
		program.Func("-e, --shared=NUM", "serve up to NUM clients at a time (default 1; 0: any number)", func(arg string) error {
			n, err := whole(arg)
			if err != nil || n < 0 || n > math.MaxInt32 {
				return fmt.Errorf("Invalid shared device number '%s'", arg)
			}
			s.shared = int(n)
			return nil
		}),
		program.Flag(&s.persistent, "-t, --persistent", "go on after the last client has gone"),
		program.Flag(&s.verbose, "-v, --verbose", "with -c: stay in the foreground and say when the device is there"),
		program.Func("-x, --export-name=NAME", "name of the export (default: the empty name)", func(arg string) error {
			if len(arg) > wire.MaxString {
				return fmt.Errorf("export name '%s' too long", arg)
			}
			s.name, s.hasName = arg, true
			return nil
		}),
		program.Func("-D, --description=TEXT", "what clients are told the export is", func(arg string) error {
			if len(arg) > wire.MaxString {
				return fmt.Errorf("export description '%s' too long", arg)
			}
			s.description = arg
			return nil
		}),
		program.Func("--handshake-limit=N", "seconds that a client may take to choose an export\n(default 10; 0: any).\nA socket that a service manager hands over (LISTEN_FDS) is\nused instead of these.", func(arg string) error {
			n, err := whole(arg)
			if err != nil || n < 0 || n > math.MaxUint32 {
				return fmt.Errorf("Invalid handshake limit '%s'", arg)
			}
			s.handshake = time.Duration(n) * time.Second
			if n == 0 {
				s.handshake = -1
			}
			return nil
		}),
	}
}

func (s *settings) partOptions() []program.Option {
	return []program.Option{
		program.Func("-o, --offset=OFFSET", "begin here (bytes, or with suffix k, M, G, T)", func(arg string) (err error) {
			if s.offset, err = opts.ParseSize(arg); err != nil {
				return fmt.Errorf("Invalid offset '%s'", arg)
			}
			s.hasOffset = true
			return nil
		}),
		program.Func("-P, --partition=N", "only partition N of an MBR (5 and up: logical ones) or GPT", func(arg string) error {
			n, err := whole(arg)
			if err != nil || n < 1 || n > imageopt.MaxPartitions {
				return fmt.Errorf("Invalid partition '%s': partitions are numbered from 1 to %d", arg, imageopt.MaxPartitions)
			}
			s.partition = int(n)
			return nil
		}).InFull(),
		program.Flag(&s.depth, "-A, --allocation-depth", "offer the metadata context qemu:allocation-depth"),
		program.Func("-B, --bitmap=NAME", "offer the context qemu:dirty-bitmap:NAME; may be repeated", func(arg string) error {
			s.bitmaps = append(s.bitmaps, arg)
			return nil
		}),
	}
}

func (s *settings) generalOptions(p *Program) []program.Option {
	return []program.Option{
		program.Flag(&s.list, "-L, --list", "list the exports of another server (with -b -p or -k)"),
		program.Func("--object TYPE,id=ID,…", "define an object: a secret, TLS credentials, authorization", func(arg string) error {
			if err := s.objects.Define(arg, p.Stdout); err != object.ErrHelp {
				return err
			}
			return errDone
		}),
		program.Text(&s.tlsCreds, "--tls-creds=ID", "demand TLS, with these credentials; with -L: use TLS"),
		program.Text(&s.tlsAuthz, "--tls-authz=ID", "serve only clients that this object lets in"),
		program.Text(&s.tlsHostname, "--tls-hostname=NAME", "with -L: the name that the certificate must have"),
		program.TraceOption(p.Name, &p.Streams, errDone),
		program.Flag(&s.fork, "--fork", "go to the background once clients can connect"),
		program.Text(&s.pidFile, "--pid-file=PATH", "write the number of the serving process there"),
		program.Text(&s.selinux, "--selinux-label=LABEL", "label of the Unix socket"),
	}
}

func (s *settings) deviceOptions() []program.Option {
	methods := map[string]kernel.Method{"auto": kernel.Auto, "netlink": kernel.Netlink, "ioctl": kernel.Ioctl}
	return []program.Option{
		program.Text(&s.connect, "-c, --connect=DEV", "attach FILE to the device DEV (/dev/nbd0 …); returns once it\nhas its size and partitions"),
		program.Flag(&s.disconnect, "-d, --disconnect", "detach the device that the operand names"),
		program.Func("--attach=METHOD", "how to talk to the kernel: auto (default), netlink or ioctl", func(arg string) error {
			method, ok := methods[arg]
			if !ok {
				return fmt.Errorf("--attach expects 'auto', 'netlink' or 'ioctl', not '%s'", arg)
			}
			s.attach = method
			return nil
		}).InFull().Offering("auto", "netlink", "ioctl"),
	}
}

func (s *settings) imageOptions(p *Program) []program.Option {
	return []program.Option{
		program.Text(&s.format, "-f, --format=FORMAT", "format of FILE (raw, qcow2, …); without it the format is probed").Offering(p.formats()...),
		program.Flag(&s.readOnly, "-r, --read-only", "serve for reading only"),
		program.Flag(&s.snapshot, "-s, --snapshot", "keep what clients write in a temporary file, FILE as it is"),
		program.Func("-l, --load-snapshot=SNAPSHOT", "serve an internal snapshot, read-only: an id or a name, or\nsnapshot.id=ID,snapshot.name=NAME", s.setSnapshot),
		program.Func("-n, --nocache", "the same as --cache=none", func(string) error { return s.setCache("none") }),
		program.Func("--cache=MODE", "none, writeback (default), writethrough, directsync, unsafe", s.setCache).Offering("none", "writeback", "writethrough", "directsync", "unsafe"),
		program.Func("--aio=MODE", "native, io_uring or threads: accepted for compatibility", s.setAIO).Offering("native", "io_uring", "threads"),
		program.Func("--discard=MODE", "what to do with discard requests: ignore (default) or unmap", s.setDiscard).Offering("ignore", "unmap"),
		program.Func("--detect-zeroes=MODE", "look for zeroes in what is written: off (default), on, unmap", s.setDetect).Offering("off", "on", "unmap"),
		program.Flag(&s.imageOpts, "--image-opts", "FILE is a list of options (driver=qcow2,file.filename=…)"),
	}
}

func (s *settings) setSnapshot(arg string) (err error) {
	s.readOnly = true
	if s.load, err = imageopt.ParseSnapshot(arg); err != nil {
		first := err
		var two *imageopt.TwoErrors
		if errors.As(err, &two) {
			first = two.First
		}
		return &imageopt.TwoErrors{First: first, Second: fmt.Errorf("Failed in parsing snapshot param `%s'", arg)}
	}
	return nil
}

func (s *settings) setCache(arg string) error {
	if s.hasCache {
		return errors.New("-n and --cache can only be specified once")
	}
	var ok bool
	if s.cache, ok = imageopt.CacheMode(arg); !ok {
		return fmt.Errorf("Invalid cache mode `%s'", arg)
	}
	s.hasCache = true
	return nil
}

func (s *settings) setAIO(arg string) error {
	if s.aio != "" {
		return errors.New("--aio can only be specified once")
	}
	if arg != "native" && arg != "threads" && arg != "io_uring" {
		return fmt.Errorf("Invalid aio mode '%s'", arg)
	}
	s.aio = arg
	return nil
}

func (s *settings) setDiscard(arg string) error {
	switch arg {
	case "unmap", "on":
		s.discard = "unmap"
	case "ignore", "off":
		s.discard = "ignore"
	default:
		return fmt.Errorf("Invalid discard mode `%s'", arg)
	}
	return nil
}

func (s *settings) setDetect(arg string) error {
	if arg != "off" && arg != "on" && arg != "unmap" {
		return fmt.Errorf("Failed to parse detect_zeroes mode: invalid parameter value: %s", arg)
	}
	s.detect = arg
	return nil
}
