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
	"github.com/cowl-disk/cowl/opts"
)

func resizeCommand(c *call) *program.Command {
	shrink, prealloc := false, driver.PreallocOff
	return &program.Command{
		Name: "resize", Summary: "Resize the image to the new size",
		Usage: []string{"[-f FMT | --image-opts] [--preallocation PREALLOC] [--shrink]",
			"[--object OBJDEF] [-q] FILENAME [+-]SIZE[bkKMGTPE]"},
		About: "Changes the size of the disk. Partitions and file systems on it are not touched:\nshrink them before, grow them after.",
		Options: []program.Option{c.helpOption(), c.quietOption(), c.formatOption(), c.imageOptsOption(),
			program.Flag(&shrink, "--shrink", "allow a smaller size; all data beyond it is lost"),
			program.Func("--preallocation PREALLOC", "preallocate what is added: off, metadata, falloc or full", func(arg string) error {
				switch p := driver.Prealloc(arg); p {
				case driver.PreallocOff, driver.PreallocMetadata, driver.PreallocFalloc, driver.PreallocFull:
					prealloc = p
				default:
					return fmt.Errorf("Invalid preallocation mode '%s'", arg)
				}
				return nil
			}).Offering("off", "metadata", "falloc", "full"),
			c.objectOption(),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image"},
			{Name: "[+-]SIZE", Help: "the new size, or by how much to grow (+) or shrink (-), with an optional\nsuffix (k: 1024, M, G, T, P, E)"}},
		Examples: []string{"disk.qcow2 +10G", "-f raw --shrink disk.raw 5G"},
		// "FILENAME -5G" shrinks.
		More: func(operands []string, word string) bool {
			return len(operands) == 1 && len(word) > 1 && word[0] == '-' && word[1] >= '0' && word[1] <= '9'
		},
		Run: func(context.Context, []string) int { return c.resize(shrink, prealloc) },
	}
}

func (c *call) resize(shrink bool, prealloc driver.Prealloc) int {
	switch {
	case len(c.operands) < 2:
		return c.usage("Expecting image file name and size")
	case len(c.operands) > 2:
		return c.usage("Extra argument(s) in command line")
	}
	sign, n, err := relativeSize(c.operands[1])
	if err != nil {
		return c.fail(err)
	}
	img, err := c.open(c.image(c.operands[0]), block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Unmap: true})
	if err != nil {
		return c.fail(err)
	}
	if sign != 0 {
		n = img.Size() + sign*n
	}
	err = ops.Resize(c.ctx, ops.ResizeJob{Image: img, Size: n, Shrink: shrink, Prealloc: prealloc})
	if e := c.close(img); err == nil {
		err = e
	}
	if err != nil {
		return c.resizeError(err)
	}
	c.printf("Image resized.\n")
	return 0
}

// relativeSize reads a size with an optional sign, which is then 1 or -1. Sizes
// of 8 EiB and more come out negative, and so as too small.
func relativeSize(text string) (sign, n int64, err error) {
	switch {
	case strings.HasPrefix(text, "+"):
		sign, text = 1, text[1:]
	case strings.HasPrefix(text, "-"):
		sign, text = -1, text[1:]
	}
	u, err := opts.ParseSizeUint(text, 'b')
	if err != nil {
		err = opts.SizeError("size", text, err)
	}
	return sign, int64(u), err
}

func (c *call) resizeError(err error) int {
	if errors.Is(err, ops.ErrShrink) {
		c.errorf("Use the --shrink option to perform a shrink operation.")
		c.warnf("Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, make sure there is no important data there.")
		return c.failure
	}
	var io *block.IOError
	if errors.As(err, &io) {
		err = io.Err
	}
	return c.errorf("%s", words.Text(err))
}
