package qemuimg

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/ops"
)

// creating is one run of create.
type creating struct {
	*call
	job  ops.CreateJob
	list optionList
}

func createCommand(c *call) *program.Command {
	c.format = "raw"
	cr := &creating{call: c, job: ops.CreateJob{Registry: c.reg, Size: -1, Gate: driver.AllowAll, Objects: &c.objects, Warn: func(m string) { c.warnf("%s", m) }, Words: words.Text}}
	return &program.Command{
		Name: "create", Summary: "Create and format new image file",
		Usage: []string{"[-f FMT] [-o FMT_OPTS] [-b BACKING_FILENAME [-F BACKING_FMT]]",
			"[--object OBJDEF] [-u] [--force] [-q] FILENAME [SIZE[bkKMGTPE]]"},
		About: "Makes an image, replacing a file of that name. With -b the image shows the\ncontent of BACKING_FILENAME and takes up what is written to it.",
		Options: []program.Option{c.helpOption(), c.quietOption(),
			c.formatOptionAs("-f, --format FMT", "the format of the new image (default: raw)"),
			program.Func("-o, --options FMT_OPTS", "options of the format, NAME=VALUE,…; 'help' lists them", cr.list.add),
			program.Given(&cr.job.Backing, "-b, --backing BACKING_FILENAME", "the image that the new one rests on; relative names are looked up in the\ndirectory of the new image"),
			program.Given(&cr.job.BackingFormat, "-F, --backing-format BACKING_FMT", "the format of BACKING_FILENAME, which must be given; -B means the same").Also("-B").Offering(c.formats()...),
			program.Flag(&cr.job.ReplaceDataFile, "--force", "erase what is in the file that -o data_file names").InFull(),
			program.Flag(&cr.job.Unsafe, "-u, --backing-unsafe", "do not open BACKING_FILENAME, it need not exist; then SIZE is required"),
			c.objectOption(),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image to create"},
			{Name: "SIZE", Help: "the size of the disk in bytes, with an optional suffix (k: 1024, M, G, T, P, E);\nwith -b it may be left out and is that of BACKING_FILENAME"}},
		Examples: []string{"-f qcow2 disk.qcow2 20G", "-f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2",
			"-f qcow2 -o preallocation=metadata,cluster_size=128k disk.qcow2 1T"},
		Run: cr.run,
	}
}

func (cr *creating) run(_ context.Context, operands []string) int {
	c, job := cr.call, cr.job
	if cr.list.given() && cr.list.wantsHelp() {
		name := ""
		if len(operands) > 0 {
			name = operands[0]
		}
		return c.createHelp(c.format, name)
	}
	if len(operands) == 0 {
		return c.usage("Expecting image file name")
	}
	job.Filename, job.Format = operands[0], c.format
	if len(operands) > 1 {
		n, err := size("image size", operands[1])
		if err != nil {
			return c.fail(err)
		}
		job.Size = n
	}
	if len(operands) > 2 {
		return c.usage("Unexpected argument: " + operands[2])
	}
	var err error
	if job.Options, err = cr.list.dict(); err != nil {
		return c.fail(fmt.Errorf("%s: %w", driver.HidePassword(job.Filename), err))
	}
	job.Order = cr.list.names()
	if _, given := job.Options["size"]; job.Size == 0 && given {
		return c.fail(fmt.Errorf("%s: The image size must be specified only once", job.Filename))
	} else if job.Size == 0 {
		// A size of 0 that the job says would be that of the backing file.
		job.Options["size"] = "0"
	}
	// Scripts that were written for QEMU's program make images anew.
	job.ReplaceDataFile = job.ReplaceDataFile || !c.cowl()
	job.Announce = func(w ops.Creating) {
		text := []string{}
		for _, o := range w.Options {
			text = append(text, o.Name+"="+o.Value)
		}
		c.printf("Formatting '%s', fmt=%s %s\n", driver.HidePassword(w.Filename), w.Format, strings.Join(text, " "))
	}
	c.changesNew(job.Filename)
	if err := ops.Create(c.ctx, job); err != nil {
		return c.failCreate(job.Filename, err)
	}
	return 0
}

// failCreate reports that an image could not be created, and in the same line what
// remains of it.
func (c *call) failCreate(name string, err error) int {
	name = driver.HidePassword(name)
	var remains *block.RemainsError
	if !errors.As(err, &remains) {
		return c.fail(fmt.Errorf("%s: %w", name, createError(err)))
	}
	return c.errorf("%s; %s", words.Text(fmt.Errorf("%s: %w", name, createError(remains.Err))), words.Text(remains.Remains))
}

// createError drops the wrappers that repeat the name of the new image.
func createError(err error) error {
	var open *block.OpenError
	if errors.As(err, &open) && open == err && open.Role == "" {
		return open.Err
	}
	var io *block.IOError
	if errors.As(err, &io) && io.Op == "resize" {
		if errors.Is(io.Err, driver.ErrUnsupported) {
			return fmt.Errorf("Could not resize image: %w", io.Err)
		}
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
