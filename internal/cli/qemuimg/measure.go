package qemuimg

import (
	"math"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
)

const (
	measureFormat = iota + 1
	measureOptions
	measureSize
	measureSnapshot
)

func measureCommand() *command {
	return &command{
		name: "measure", summary: "Calculate file size required for a new image", run: runMeasure,
		usage: []string{"[-f FMT | --image-opts] [-o OPTIONS] [-O OUTPUT_FMT] [-U]",
			"[--output human|json] [--object OBJDEF] [-l SNAPSHOT] (--size SIZE | FILENAME)"},
		about: "Tells how large an image would be after converting FILENAME, and how large it can\nget once all of the disk has been written.",
		options: []option{helpOption(),
			{id: measureFormat, long: "target-format", short: 'O', value: "FMT", help: "the format of the new image (default: raw)"},
			{id: measureFormat, long: "output-format", value: "FMT"},
			{id: measureOptions, long: "options", short: 'o', value: "OPTIONS", help: "options of the new image, as for create; 'help' lists them"},
			{id: measureSize, long: "size", short: 's', value: "SIZE", help: "measure for an empty disk of this size"},
			formatOption(), imageOptsOption(),
			{id: measureSnapshot, long: "snapshot", short: 'l', value: "SNAPSHOT", help: "measure this snapshot of FILENAME: an id, a name,\nsnapshot.id=ID or snapshot.name=NAME"},
			objectOption(), outputOption(), forceShareOption(),
		},
		operands: []operand{{"FILENAME", "the image that would be converted"}},
		examples: []string{"-O qcow2 --size 100G", "-O qcow2 -o cluster_size=2M disk.raw"},
	}
}

func runMeasure(c *call, args []string) int {
	format, bytes, snapshot := "raw", int64(-1), snapshotParam{}
	var list optionList
	code, ok := c.parse(args, func(id int, arg string) (err error) {
		switch id {
		case measureFormat:
			format = arg
		case measureOptions:
			err = list.add(arg)
		case measureSize:
			bytes, err = number("image size", arg, 0, math.MaxInt64)
		case measureSnapshot:
			snapshot, err = parseSnapshot(arg)
		}
		return err
	})
	if !ok {
		return code
	}
	if list.given() && list.wantsHelp() {
		return c.createHelp(format, "")
	}
	switch {
	case len(c.operands) > 1:
		return c.errorf("At most one filename argument is allowed.")
	case len(c.operands) == 0 && (c.imageOpts || c.hasFormat || snapshot.Given()):
		return c.errorf("--image-opts, -f, and -l require a filename argument.")
	case len(c.operands) == 0 && bytes < 0:
		return c.errorf("Either --size N or one filename must be specified.")
	case len(c.operands) == 1 && bytes >= 0:
		return c.errorf("--size N cannot be used together with a filename.")
	}
	req := ops.MeasureRequest{Size: bytes, Objects: &c.objects}
	if len(c.operands) == 1 {
		img, err := c.open(c.image(c.operands[0]), block.OpenOptions{Sequential: true, ForceShare: c.forceShare})
		if err != nil {
			return c.fail(err)
		}
		defer c.close(img)
		if err := c.loadSnapshot(img, snapshot); err != nil {
			return c.fail(err)
		}
		req.Source = img
	}
	if req.Driver = c.reg.Lookup(format); req.Driver == nil {
		return c.errorf("Unknown file format '%s'", format)
	}
	desc := req.Driver.Desc()
	if desc.CreateOptions == nil {
		return c.errorf("Format driver '%s' does not support image creation", format)
	}
	var err error
	if req.Options, err = measureDict(c, desc, &list); err != nil {
		c.fail(err)
		return c.errorf("Invalid options for file format '%s'", format)
	}
	info, err := ops.Measure(c.ctx, req)
	if err != nil {
		return c.fail(err)
	}
	if c.json {
		return c.print(render.JSON(c.Stdout, info))
	}
	return c.print(render.Measure(c.Stdout, info))
}

// measureDict reads the options of the new image. Those that only concern the
// file it would lie in are accepted and have no say.
func measureDict(c *call, desc *driver.Desc, list *optionList) (opts.Dict, error) {
	d, err := list.dict()
	if err != nil {
		return nil, err
	}
	schema := desc.CreateOptions
	if file := c.reg.Lookup("file"); file != nil {
		schema = opts.Merge(schema, file.Desc().CreateOptions)
	}
	if err := schema.Check(d); err != nil {
		return nil, err
	}
	delete(d, "size")
	for k := range d {
		if desc.CreateOptions.Lookup(k) == nil {
			delete(d, k)
		}
	}
	return d, nil
}
