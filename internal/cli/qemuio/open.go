package qemuio

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/imageopt"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/opts"
)

// opening says how a file is opened.
type opening struct {
	name       string
	named      bool // a name was given
	options    opts.Dict
	readOnly   bool
	cache      driver.Cache
	unmap      bool
	aio        string
	snapshot   bool
	copyOnRead bool
	forceShare bool
}

// newOpening is what holds where nothing is said: as in QEMU, every write is flushed.
func newOpening() opening {
	return opening{options: opts.Dict{}, cache: driver.Cache{WriteThrough: true}, unmap: true}
}

// flags declares the options that the program and its command open have in common. The
// long names are those of the program.
func (o *opening) flags(long bool) []program.Option {
	name := func(short, rest string) string {
		if long {
			return short + ", --" + rest
		}
		return short
	}
	return []program.Option{
		program.Flag(&o.readOnly, name("-r", "read-only"), "open the image read-only"),
		program.Flag(&o.snapshot, name("-s", "snapshot"), "keep what is written in a temporary file, which vanishes at the end"),
		program.Func(name("-n", "nocache"), "the same as -t none", func(string) error {
			o.cache = driver.Cache{Direct: true}
			return nil
		}),
		program.Flag(&o.copyOnRead, name("-C", "copy-on-read"), "copy what is read from the backing file into the image"),
		program.Func(name("-k", "native-aio"), "the same as -i native", func(string) error {
			o.aio = "native"
			return nil
		}),
		program.Flag(&o.forceShare, name("-U", "force-share"), "open the image even if another process has it open for writing"),
		program.Func(withArg(name("-i", "aio"), "MODE"), "the way of submitting I/O: threads, native or io_uring", o.setAIO),
		program.Func(withArg(name("-t", "cache"), "MODE"), "the cache mode (default: writethrough)", o.setCache),
		program.Func(withArg(name("-d", "discard"), "MODE"), "what becomes of discard requests: unmap (default) or ignore", o.setDiscard),
	}
}

func withArg(spelling, arg string) string { return spelling + " " + arg }

func (o *opening) setAIO(arg string) error {
	if arg != "threads" && arg != "native" && arg != "io_uring" {
		return fmt.Errorf("Invalid aio option: %s", arg)
	}
	o.aio = arg
	return nil
}

func (o *opening) setCache(arg string) error {
	c, ok := imageopt.CacheMode(arg)
	if !ok {
		return fmt.Errorf("Invalid cache option: %s", arg)
	}
	o.cache = c
	return nil
}

func (o *opening) setDiscard(arg string) error {
	switch arg {
	case "unmap", "on":
		o.unmap = true
	case "ignore", "off":
		o.unmap = false
	default:
		return fmt.Errorf("Invalid discard option: %s", arg)
	}
	return nil
}

func openCommands() []*command {
	return []*command{
		{name: "open", alias: "o", min: 1, max: -1, anytime: true, args: "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]", about: "open the file specified by path", run: (*session).openFile,
			help: ` 'open -n -o driver=raw /tmp/data' opens a raw file for reading and writing, past the page cache.

 -r  read-only
 -s  keep what is written in a temporary file
 -C  copy what is read from the backing file into the image
 -n  the same as -t none
 -U  even if another process has it open for writing
 -k  the same as -i native
 -i  the way of submitting I/O: threads, native or io_uring
 -t  the cache mode
 -d  what becomes of discard requests: unmap or ignore
 -o  options of the driver
`},
		{name: "close", alias: "c", about: "close the current open file", run: func(s *session, _ *command, _ []string) error { return s.close() }},
		{name: "reopen", max: -1, args: "[(-r|-w)] [-c cache] [-o options]", about: "reopens an image with new options", run: (*session).reopen,
			help: ` 'reopen -o lazy-refcounts=on' opens the image again with this option.

 -r  read-only
 -w  for reading and writing
 -c  with another cache mode
 -o  with these options of the driver
`},
	}
}

// reported puts an error of an option, which has a message, where messages go.
func (s *session) reported(err error) error {
	if err == nil || err == errFailed {
		return err
	}
	return s.errorf("%s", words.Text(err))
}

func (s *session) openFile(c *command, args []string) error {
	o := newOpening()
	options := append(o.flags(false), program.Func("-o OPTIONS", "", func(arg string) error {
		if s.imageOpts {
			return s.failf("--image-opts and 'open -o' are mutually exclusive")
		}
		return o.options.ParseList(arg, "")
	}))
	operands, err := s.parse(c, args, 0, 1, options...)
	if err != nil {
		return s.reported(err)
	}
	if len(operands) == 1 && s.imageOpts {
		if err := o.options.ParseList(operands[0], ""); err != nil {
			return s.reported(err)
		}
	} else if len(operands) == 1 {
		o.name, o.named = operands[0], true
	}
	return s.open(o)
}

// open opens a file, which no other may be beside.
func (s *session) open(o opening) error {
	if s.img != nil {
		return s.errorf("file open already, try 'help close'")
	}
	img, err := s.openImage(o)
	if err != nil {
		var top *block.OpenError
		if errors.As(err, &top) && error(top) == err {
			err = top.Err
		}
		device := ""
		if o.named {
			device = " device " + driver.HidePassword(o.name)
		}
		return s.errorf("can't open%s: %s", device, words.Text(err))
	}
	s.img, s.opened, s.breakpoints = img, o, false
	if imageopt.Served(img) {
		s.watchServed()
	}
	return nil
}

func (s *session) openImage(o opening) (*block.Image, error) {
	src := block.Source{Filename: o.name, Options: o.options.Clone()}
	if v, given := src.Options["read-only"]; given {
		delete(src.Options, "read-only")
		on, err := opts.ParseBool(fmt.Sprint(v))
		if err != nil {
			return nil, errors.New("Parameter 'read-only' expects 'on' or 'off'")
		}
		o.readOnly = o.readOnly || on
	}
	if o.name == "" && len(src.Options) == 0 {
		return nil, errors.New("The 'file' block driver requires a file name")
	}
	if o.aio != "" && o.aio != "threads" { // which is what there is everywhere
		src.Options["file.aio"] = o.aio
	}
	if o.copyOnRead {
		if o.readOnly {
			return nil, errors.New("Can't use copy-on-read on read-only device")
		}
		src = s.copyOnRead(src)
	}
	found := render.NewFindings(s.Stderr)
	defer found.End()
	how := block.OpenOptions{Write: !o.readOnly && !o.snapshot, Sharing: block.Sharing{Resize: !o.readOnly && !o.snapshot, Force: o.forceShare}, Unmap: o.unmap, Cache: o.cache,
		Gate: driver.AllowAll, Objects: &s.objects, Messages: block.Messages{Warn: s.warn, Words: words.Text, Report: found.Report,
			ProbedRaw: func(name string) { fmt.Fprint(s.Stderr, imageopt.ProbedRaw(name)) }}}
	if how.Write && o.forceShare {
		return nil, errors.New("force-share=on can only be used with read-only images")
	}
	if !o.snapshot || o.readOnly {
		return block.Open(s.ctx, s.reg, src, how)
	}
	base, err := block.Open(s.ctx, s.reg, src, how)
	if err != nil {
		return nil, err
	}
	over := imageopt.Base{Size: base.Size(), Format: base.Format(), Filename: base.Filename()}
	if o.name == "" {
		over.Options = src.Options
	}
	if err := base.Close(s.ctx); err != nil {
		return nil, err
	}
	return imageopt.Temporary(s.ctx, s.reg, over, opts.Dict{}, how)
}

// copyOnRead puts the filter of that name above an image. A file name is for the first
// node down the options that is a protocol or has no driver yet.
func (s *session) copyOnRead(src block.Source) block.Source {
	over := opts.Dict{"driver": "copy-on-read"}
	for k, v := range src.Options {
		over["file."+k] = v
	}
	if src.Filename == "" {
		return block.Source{Options: over}
	}
	path := "file."
	for {
		d := s.reg.Lookup(over.String(path + "driver"))
		if d == nil || d.Desc().Primary() == nil {
			break
		}
		path += d.Desc().Primary().Role + "."
	}
	over[path+"filename"] = src.Filename
	return block.Source{Options: over}
}

// watchServed has the program die of the signal that interrupts it, if the server of its image does not answer.
func (s *session) watchServed() {
	s.watch.Do(func() {
		imageopt.AfterInterruption(s.ctx, s.over, func() {
			s.errorf("Interrupted; no answer in time")
			if s.die != nil {
				s.die(s.ctx)
				return
			}
			program.DieOfSignal(s.ctx)
		})
	})
}

// warn prints a warning. QEMU tells of corruption that it meets without its own name.
func (s *session) warn(msg string) {
	if !strings.HasPrefix(msg, "qcow2: ") {
		msg = s.Name + ": warning: " + msg
	}
	fmt.Fprintln(s.Stderr, msg)
}

// close ends what runs and closes the file.
func (s *session) close() error {
	if s.img == nil {
		return nil
	}
	if b := s.breaker(); b != nil {
		b.Release()
	}
	s.running.Wait()
	ctx := context.WithoutCancel(s.ctx)
	if imageopt.Served(s.img) {
		last, cancel := driver.Farewell(s.ctx, driver.ClosingTime)
		defer cancel()
		ctx = last
	}
	err := s.img.Close(ctx)
	s.img = nil
	if err != nil {
		return s.errorf("%s", words.Text(err))
	}
	return nil
}
