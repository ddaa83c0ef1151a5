package qemuimg

import (
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
)

const (
	mapStart = iota + 1
	mapLength
)

func mapCommand() *command {
	return &command{
		name: "map", summary: "Dump image metadata", run: runMap,
		usage: []string{"[-f FMT | --image-opts] [--object OBJDEF] [--output human|json]",
			"[-s OFFSET] [-l LENGTH] [-U] FILENAME"},
		about: "Prints where the content of the disk lies: the offset in the disk, the length,\nthe offset in the file, and the file, which may be a backing file. As JSON, ranges\nof zeroes are listed too.",
		options: []option{helpOption(), formatOption(), imageOptsOption(),
			{id: mapStart, long: "start-offset", short: 's', value: "OFFSET", help: "where to start"},
			{id: mapLength, long: "max-length", short: 'l', value: "LENGTH", help: "how many bytes to describe at most"},
			outputOption(), forceShareOption(), objectOption(),
		},
		operands: []operand{{"FILENAME", "the image"}},
		examples: []string{"disk.qcow2", "--output json -s 1G -l 64M disk.qcow2"},
	}
}

func runMap(c *call, args []string) int {
	start, length := int64(0), int64(-1)
	code, ok := c.parse(args, func(id int, arg string) (err error) {
		switch id {
		case mapStart:
			start, err = size("start offset", arg)
		case mapLength:
			length, err = size("max length", arg)
		}
		return err
	})
	if !ok {
		return code
	}
	if len(c.operands) != 1 {
		return c.usage("Expecting one image file name")
	}
	img, err := c.open(c.image(c.operands[0]), block.OpenOptions{Sequential: true, ForceShare: c.forceShare})
	if err != nil {
		return c.fail(err)
	}
	defer c.close(img)
	p := render.NewMapPrinter(c.Stdout, c.json)
	if err := ops.Map(c.ctx, img, start, length, p.Entry); err != nil {
		if e := p.Flush(); e != nil {
			return c.print(e)
		}
		if errors.Is(err, render.ErrUnmappable) {
			return c.fail(err)
		}
		return c.fail(fmt.Errorf("Could not read file metadata: %s", render.System(err)))
	}
	return c.print(p.End())
}
