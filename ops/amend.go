package ops

import (
	"context"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// AmendJob says what to change of an image, which is open for writing and
// resizing.
type AmendJob struct {
	Image    *block.Image
	Options  opts.Dict // of the driver's AmendOptions
	Force    bool      // allow what may make the image inaccessible
	Progress ProgressFunc
}

// AmendSchema returns the options that images of a format can be amended with.
func AmendSchema(drv driver.Driver) (*opts.Schema, error) {
	if drv.Desc().AmendOptions == nil {
		return nil, driver.Errorf(driver.ErrUnsupported, "format driver '%s' does not support option amendment", drv.Desc().Name)
	}
	return drv.Desc().AmendOptions, nil
}

// CreationOnlyError says that an option exists for new images only.
type CreationOnlyError struct{ Err error }

func (e *CreationOnlyError) Error() string { return driver.Text(e) }
func (e *CreationOnlyError) Unwrap() error { return e.Err }

// Template implements driver.Message.
func (e *CreationOnlyError) Template() (string, []any) { return "%v", []any{e.Err} }

// Hint is a further line for the user.
func (e *CreationOnlyError) Hint() string {
	return "This option is only supported for image creation"
}

// Amend changes features of an image in place. Its contents stay as they are,
// except what a smaller size cuts off.
func Amend(ctx context.Context, job AmendJob) error {
	img := job.Image
	schema, err := AmendSchema(img.Tree().Driver())
	if err != nil {
		return err
	}
	amender, ok := img.Tree().Node().(driver.Amender)
	if !ok {
		return driver.Errorf(driver.ErrUnsupported, "format driver '%s' does not support option amendment", img.Format())
	}
	if err := schema.Check(job.Options); err != nil {
		if opts.Merge(schema, img.Tree().Driver().Desc().CreateOptions).Check(job.Options) == nil {
			return &CreationOnlyError{Err: err}
		}
		return err
	}
	err = amender.Amend(ctx, &driver.AmendRequest{
		Options: job.Options,
		Force:   job.Force,
		Resize: func(ctx context.Context, size int64) error {
			return img.Resize(ctx, size, driver.ResizeOptions{Exact: true})
		},
		Progress: func(done, total int64) { job.Progress.report("amend", done, total) },
	})
	if err != nil {
		return err
	}
	return img.Flush(ctx)
}
