package qemuimg

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
)

const (
	createOptions = iota + 1
	createBacking
	createBackingFormat
	createUnsafe
	createForce
)

func createCommand() *command {
	return &command{
		name: "create", summary: "Create and format new image file", run: runCreate,
		usage: []string{"[-f FMT] [-o FMT_OPTS] [-b BACKING_FILENAME [-F BACKING_FMT]]",
			"[--object OBJDEF] [-u] [-q] FILENAME [SIZE[bkKMGTPE]]"},
		about: "Makes an image, replacing a file of that name. With -b the image shows the\ncontent of BACKING_FILENAME and takes up what is written to it.",
		options: []option{helpOption(), quietOption(),
			{id: optObject, long: "object", value: "OBJDEF", help: objectOption().help},
			{id: optFormat, long: "format", short: 'f', value: "FMT", help: "the format of the new image (default: raw)"},
			{id: createOptions, long: "options", short: 'o', value: "FMT_OPTS", help: "options of the format, NAME=VALUE,…; 'help' lists them"},
			{id: createBacking, long: "backing", short: 'b', value: "BACKING_FILENAME", help: "the image that the new one rests on; relative names are looked up in the\ndirectory of the new image"},
			{id: createBackingFormat, long: "backing-format", short: 'F', value: "BACKING_FMT", help: "the format of BACKING_FILENAME, which must be given; -B means the same"},
			{id: createBackingFormat, short: 'B', value: "BACKING_FMT"},
			{id: createUnsafe, long: "backing-unsafe", short: 'u', help: "do not open BACKING_FILENAME, it need not exist; then SIZE is required"},
			{id: createForce, long: "force", exact: true, help: "erase what is in the file that -o data_file names"},
		},
		operands: []operand{{"FILENAME", "the image to create"},
			{"SIZE", "the size of the disk in bytes, with an optional suffix (k: 1024, M, G, T, P, E);\nwith -b it may be left out and is that of BACKING_FILENAME"}},
		examples: []string{"-f qcow2 disk.qcow2 20G", "-f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2",
			"-f qcow2 -o preallocation=metadata,cluster_size=128k disk.qcow2 1T"},
	}
}

func runCreate(c *call, args []string) int {
	c.format = "raw"
	job := ops.CreateJob{Registry: c.reg, Size: -1, Gate: driver.AllowAll, Objects: &c.objects, Warn: func(m string) { c.warnf("%s", m) },
		ReplaceDataFile: !c.cowl()}
	var list optionList
	code, ok := c.parse(args, func(id int, arg string) error {
		switch id {
		case createOptions:
			return list.add(arg)
		case createBacking:
			job.Backing = &arg
		case createBackingFormat:
			job.BackingFormat = &arg
		case createUnsafe:
			job.Unsafe = true
		case createForce:
			job.ReplaceDataFile = true
		}
		return nil
	})
	if !ok {
		return code
	}
	if list.given() && list.wantsHelp() {
		name := ""
		if len(c.operands) > 0 {
			name = c.operands[0]
		}
		return c.createHelp(c.format, name)
	}
	if len(c.operands) == 0 {
		return c.usage("Expecting image file name")
	}
	job.Filename, job.Format = c.operands[0], c.format
	if len(c.operands) > 1 {
		n, err := size("image size", c.operands[1])
		if err != nil {
			return c.fail(err)
		}
		job.Size = n
	}
	if len(c.operands) > 2 {
		return c.usage("Unexpected argument: " + c.operands[2])
	}
	var err error
	if job.Options, err = list.dict(); err != nil {
		return c.fail(fmt.Errorf("%s: %w", job.Filename, err))
	}
	if _, given := job.Options["size"]; job.Size == 0 && given {
		return c.fail(fmt.Errorf("%s: The image size must be specified only once", job.Filename))
	} else if job.Size == 0 {
		// A size of 0 that the job says would be that of the backing file.
		job.Options["size"] = "0"
	}
	job.Announce = func(w ops.Creating) {
		text := []string{}
		for _, o := range w.Options {
			text = append(text, o.Name+"="+o.Value)
		}
		c.printf("Formatting '%s', fmt=%s %s\n", w.Filename, w.Format, strings.Join(text, " "))
	}
	if err := ops.Create(c.ctx, job); err != nil {
		return c.failCreate(job.Filename, err)
	}
	return 0
}

// failCreate reports that an image could not be created, and in the same line what
// remains of it.
func (c *call) failCreate(name string, err error) int {
	var remains *block.RemainsError
	if !errors.As(err, &remains) {
		return c.fail(fmt.Errorf("%s: %w", name, createError(err)))
	}
	return c.errorf("%s; %s", render.Error(fmt.Errorf("%s: %w", name, createError(remains.Err))), remains.Remains)
}

// createError takes the envelopes off that name the new image once more.
func createError(err error) error {
	var open *block.OpenError
	if errors.As(err, &open) && open == err && open.Role == "" {
		return open.Err
	}
	var io *block.IOError
	if errors.As(err, &io) && io.Op == "resize" {
		return fmt.Errorf("Could not resize image: Failed to resize underlying file: %w", io.Err)
	}
	return err
}

// createHelp prints the options for creating an image.
func (c *call) createHelp(format, filename string) int {
	schema, err := ops.CreateSchema(c.reg, format, filename)
	if err != nil {
		return c.fail(err)
	}
	caption := "Supported options:"
	if filename == "" {
		caption = fmt.Sprintf("Supported %s options:", format)
	}
	if err := schema.WriteHelp(c.Stdout, caption); err != nil {
		return c.print(err)
	}
	if filename == "" {
		fmt.Fprint(c.Stdout, "\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n")
	}
	return 0
}
