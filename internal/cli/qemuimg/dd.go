package qemuimg

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
)

func ddCommand(c *call) *program.Command {
	format := "raw"
	return &program.Command{
		Name: "dd", Summary: "Copy input to output with optional format conversion",
		Usage: []string{"[-f FMT | --image-opts] [-O OUTPUT_FMT] [-U] [-p] [--object OBJDEF]",
			"[bs=BLOCK_SIZE] [count=BLOCKS] [skip=BLOCKS] if=INPUT of=OUTPUT"},
		About: "Makes the image OUTPUT with a part of the disk INPUT. Every byte is written; use\nconvert to keep holes.",
		Options: []program.Option{c.helpOption(),
			c.formatOptionAs("-f, --format FMT", "the format of INPUT; without it the format is probed"),
			program.Flag(&c.imageOpts, "--image-opts", "INPUT is a list of options instead of a file name"),
			program.Text(&format, "-O, --output-format OUTPUT_FMT", "the format of OUTPUT (default: raw)").Offering(c.formats()...),
			c.forceShareOption(), c.objectOption(), c.progressOption().InFull(),
		},
		Operands: []program.Operand{{Name: "bs=BLOCK_SIZE", Help: "the unit of count and skip (default: 512)"},
			{Name: "count=BLOCKS", Help: "end so many blocks from the start of INPUT (default: its end)"},
			{Name: "skip=BLOCKS", Help: "start so many blocks from the start of INPUT"},
			{Name: "if=INPUT", Help: "the image to read"}, {Name: "of=OUTPUT", Help: "the image to create"}},
		Examples: []string{"if=disk.qcow2 of=head.raw bs=1M count=1"},
		Run:      func(context.Context, []string) int { return c.dd(format) },
	}
}

// ddOperands are the operands NAME=VALUE of the command line.
type ddOperands struct {
	in, out         string
	hasIn, hasOut   bool
	bs, count, skip int64 // count -1: not given
}

func (o *ddOperands) set(arg string) (err error) {
	name, val, ok := strings.Cut(arg, "=")
	if !ok {
		return fmt.Errorf("unrecognized operand %s", arg)
	}
	switch name {
	case "if":
		o.in, o.hasIn = val, true
	case "of":
		o.out, o.hasOut = val, true
	case "bs":
		o.bs, err = number("bs", val, 1, math.MaxInt32)
	case "count":
		o.count, err = size("count", val)
	case "skip":
		o.skip, err = size("skip", val)
	default:
		err = fmt.Errorf("unrecognized operand %s", name)
	}
	return err
}

func (c *call) dd(format string) int {
	o := ddOperands{bs: 512, count: -1}
	for _, a := range c.operands {
		if err := o.set(a); err != nil {
			return c.fail(err)
		}
	}
	if !o.hasIn || !o.hasOut {
		return c.errorf("Must specify both input and output files")
	}
	src, err := c.open(c.image(o.in), block.OpenOptions{Use: block.Use{Sequential: true}, Sharing: block.Sharing{Force: c.forceShare}})
	if err != nil {
		return c.fail(err)
	}
	defer c.close(src)
	drv := c.reg.Lookup(format)
	if drv == nil {
		return c.errorf("Unknown file format")
	}
	if drv.Desc().CreateOptions == nil {
		return c.errorf("Format driver '%s' does not support image creation", format)
	}
	start, n, beyond := o.window(src.Size())
	if err := ops.KeepSources(o.out, src); err != nil {
		return c.fail(fmt.Errorf("%s: error while creating output image: %w", o.out, err))
	}
	connections := &driver.Connections{}
	defer connections.Close()
	c.changesNew(o.out)
	made, err := block.Make(c.ctx, c.reg, block.CreateRequest{Filename: o.out, Format: format, Size: n, Options: opts.Dict{}, Gate: driver.AllowAll, Objects: &c.objects, Connections: connections})
	if err != nil {
		return c.failCreate(o.out+": error while creating output image", err)
	}
	dst, err := c.open(image{name: o.out, format: format}, block.OpenOptions{Write: true, Use: block.Use{Sequential: true}, Unmap: true, Connections: connections})
	if err != nil {
		return c.fail(err)
	}
	if beyond {
		c.errorf("%s: cannot skip to specified offset", o.in)
	} else {
		progress, stop := c.startProgress(1)
		err = ops.DD(c.ctx, ops.DDJob{Source: src, SourceOffset: start, Target: dst, N: n, Progress: progress.Report})
		stop(err != nil)
	}
	if e := c.close(dst); err == nil {
		err = e
	}
	if err == nil {
		return 0
	}
	text := c.ddError(err)
	if e := made.Undo(c.ctx); e != nil {
		text += "; " + words.Text(e)
	}
	return c.errorf("%s", text)
}

// window is the part of a disk that is copied. As in QEMU, count is
// counted from the start of the disk, not from where skip leads.
func (o *ddOperands) window(size int64) (start, n int64, beyond bool) {
	if o.count >= 0 && o.count <= math.MaxInt64/o.bs && o.count*o.bs < size {
		size = o.count * o.bs
	}
	if o.skip > math.MaxInt64/o.bs || o.skip*o.bs > size {
		return 0, 0, true
	}
	start = o.skip * o.bs
	return start, size - start, false
}

// ddError words an error of copying.
func (c *call) ddError(err error) string {
	var io *block.IOError
	if !errors.As(err, &io) || errors.Is(err, context.Canceled) {
		return words.Text(err)
	}
	doing := "reading from input image file"
	if io.Op == "write" {
		doing = "writing to output image file"
	}
	return fmt.Sprintf("error while %s: %s", doing, words.System(io.Err))
}
