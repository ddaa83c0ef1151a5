package qemuimg

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/ops"
)

// newTarget is what the command line says of the image to be made.
func (cv *conversion) newTarget() (*ops.CreateJob, error) {
	d, err := cv.list.dict()
	cv.changesNew(cv.target)
	return &ops.CreateJob{Registry: cv.reg, Filename: cv.target, Format: cv.outFormat(), Options: d, Order: cv.list.names(), Backing: cv.backing,
		BackingFormat: cv.backFm, Gate: driver.AllowAll, Objects: &cv.objects, Warn: func(m string) { cv.warnf("%s", m) }, Words: words.Text,
		ReplaceDataFile: cv.force || !cv.cowl()}, err
}

// copyError words an error of copying, and says in the same line what became of the
// target.
func (cv *conversion) copyError(err error) error {
	var fail *ops.CopyError
	if !errors.As(err, &fail) {
		return err
	}
	err = fail.Err
	switch fail.Stage {
	case ops.CopyCheck:
		if ops.ReplacesSource(err) {
			err = fmt.Errorf("%s: error while converting %s: %w", cv.target, cv.outFormat(), err)
		}
	case ops.CopyCreate:
		err = fmt.Errorf("%s: error while converting %s: %w", cv.target, cv.outFormat(), createError(err))
	case ops.CopyOpenTarget:
		err = openError(cv.target, err)
	case ops.CopyData:
		err = copyingError(err)
	}
	if fail.Remains != nil {
		// Hints have lines of their own.
		text, hint, more := strings.Cut(words.Text(err), "\n")
		text += "; " + words.Text(fail.Remains)
		if more {
			text += "\n" + hint
		}
		err = errors.New(text)
	}
	return err
}

// copyingError words an error of the copying itself.
func copyingError(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	var bad *ops.BitmapError
	if errors.As(err, &bad) {
		return fmt.Errorf("Failed to %s bitmap %s: %s", bad.Op, bad.Name, bitmapReason(bad.Err))
	}
	var io *block.IOError
	if !errors.As(err, &io) {
		return err
	}
	switch {
	case io.Op == "map":
		return fmt.Errorf("error while reading block status at offset %d: %s", io.Offset, words.System(io.Err))
	case io.Offset >= 0 && io.Op == "read":
		return fmt.Errorf("error while reading at byte %d: %s", io.Offset, words.System(io.Err))
	case io.Offset >= 0:
		return fmt.Errorf("error while writing at byte %d: %s", io.Offset, words.System(io.Err))
	}
	return err
}
