package qemuimg

import (
	"context"
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/ops"
)

func mapCommand(c *call) *program.Command {
	start, length := int64(0), int64(-1)
	return &program.Command{
		Name: "map", Summary: "Dump image metadata",
		Usage: []string{"[-f FMT | --image-opts] [--object OBJDEF] [--output human|json]",
			"[-s OFFSET] [-l LENGTH] [-U] FILENAME"},
		About: "Prints where the content of the disk lies: the offset in the disk, the length,\nthe offset in the file, and the file, which may be a backing file. As JSON, ranges\nof zeroes are listed too.",
		Options: []program.Option{c.helpOption(), c.formatOption(), c.imageOptsOption(),
			sizeOption(&start, "-s, --start-offset OFFSET", "where to start", "start offset"),
			sizeOption(&length, "-l, --max-length LENGTH", "how many bytes to describe at most", "max length"),
			c.outputOption(), c.forceShareOption(), c.objectOption(),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image"}},
		Examples: []string{"disk.qcow2", "--output json -s 1G -l 64M disk.qcow2"},
		Run:      func(context.Context, []string) int { return c.mapImage(start, length) },
	}
}

func (c *call) mapImage(start, length int64) int {
	if len(c.operands) != 1 {
		return c.usage("Expecting one image file name")
	}
	img, err := c.open(c.image(c.operands[0]), block.OpenOptions{Use: block.Use{Sequential: true}, Sharing: block.Sharing{Force: c.forceShare}})
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
		return c.fail(fmt.Errorf("Could not read file metadata: %s", words.System(err)))
	}
	return c.print(p.End())
}
