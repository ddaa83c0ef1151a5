package qemuimg

import (
	"context"
	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
)

// measuring is one run of measure.
type measuring struct {
	*call
	target   string // the format of the new image
	list     optionList
	size     int64 // -1: not given
	snapshot snapshotParam
}

func measureCommand(c *call) *program.Command {
	m := &measuring{call: c, target: "raw", size: -1}
	return &program.Command{
		Name: "measure", Summary: "Calculate file size required for a new image",
		Usage: []string{"[-f FMT | --image-opts] [-o OPTIONS] [-O OUTPUT_FMT] [-U]",
			"[--output human|json] [--object OBJDEF] [-l SNAPSHOT] (--size SIZE | FILENAME)"},
		About: "Tells how large an image would be after converting FILENAME, and how large it can\nget once all of the disk has been written.",
		Options: []program.Option{c.helpOption(),
			program.Text(&m.target, "-O, --target-format FMT", "the format of the new image (default: raw)").Also("--output-format").Offering(c.formats()...),
			program.Func("-o, --options OPTIONS", "options of the new image, as for create; 'help' lists them", m.list.add),
			sizeOption(&m.size, "-s, --size SIZE", "measure for an empty disk of this size", "image size"),
			c.formatOption(), c.imageOptsOption(),
			snapshotOption(&m.snapshot, "-l, --snapshot SNAPSHOT", "measure this snapshot of FILENAME: an id, a name,\nsnapshot.id=ID or snapshot.name=NAME"),
			c.objectOption(), c.outputOption(), c.forceShareOption(),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image that would be converted"}},
		Examples: []string{"-O qcow2 --size 100G", "-O qcow2 -o cluster_size=2M disk.raw"},
		Rules:    m.rules(),
		Run:      m.run,
	}
}

// rules say what does not go together; asking for help excuses from them.
func (m *measuring) rules() []program.Rule {
	rule := func(says string, broken func(n int) bool) program.Rule {
		return program.Rule{Says: says, Broken: func(operands []string) bool {
			return !(m.list.given() && m.list.wantsHelp()) && broken(len(operands))
		}}
	}
	return []program.Rule{
		rule("At most one filename argument is allowed.", func(n int) bool { return n > 1 }),
		rule("--image-opts, -f, and -l require a filename argument.", func(n int) bool { return n == 0 && (m.imageOpts || m.hasFormat || m.snapshot.Given()) }),
		rule("Either --size N or one filename must be specified.", func(n int) bool { return n == 0 && m.size < 0 }),
		rule("--size N cannot be used together with a filename.", func(n int) bool { return n == 1 && m.size >= 0 }),
	}
}

func (m *measuring) run(_ context.Context, operands []string) int {
	c := m.call
	if m.list.given() && m.list.wantsHelp() {
		return c.createHelp(m.target, "")
	}
	req := ops.MeasureRequest{Size: m.size, Objects: &c.objects}
	if len(operands) == 1 {
		img, err := c.open(c.image(operands[0]), block.OpenOptions{Use: block.Use{Sequential: true}, Sharing: block.Sharing{Force: c.forceShare}})
		if err != nil {
			return c.fail(err)
		}
		defer c.close(img)
		if err := c.loadSnapshot(img, m.snapshot); err != nil {
			return c.fail(err)
		}
		req.Source = img
	}
	if req.Driver = c.reg.Lookup(m.target); req.Driver == nil {
		return c.errorf("Unknown file format '%s'", m.target)
	}
	desc := req.Driver.Desc()
	if desc.CreateOptions == nil {
		return c.errorf("Format driver '%s' does not support image creation", m.target)
	}
	var err error
	if req.Options, err = measureDict(c, desc, &m.list); err != nil {
		c.fail(err)
		return c.errorf("Invalid options for file format '%s'", m.target)
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
// file below it are accepted and have no effect.
func measureDict(c *call, desc *driver.Desc, list *optionList) (opts.Dict, error) {
	d, err := list.dict()
	if err != nil {
		return nil, err
	}
	schema := desc.CreateOptions
	if file := c.reg.Lookup("file"); file != nil {
		schema = opts.Merge(schema, file.Desc().CreateOptions)
	}
	if err := schema.Check(d, list.names()...); err != nil {
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
