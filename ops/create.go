package ops

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// CreateJob says what image to create.
type CreateJob struct {
	Registry *block.Registry
	Filename string
	Format   string
	// Storage, if not nil, holds the image in place of a file called Filename. What it
	// held is lost; if its size is fixed, a raw image shows it still.
	Storage driver.Driver
	Options opts.Dict
	// Order is the names of Options as they were given: of several that are wrong, the error
	// names the first.
	Order []string
	// Size is the size of the disk in bytes; 0 or negative: that of the option "size",
	// or of the backing file.
	Size int64
	// Backing and BackingFormat are short for the options of that meaning. Nil: not
	// given.
	Backing, BackingFormat *string
	// Unsafe: do not look at the backing file.
	Unsafe bool
	// ReplaceDataFile lets the option data_file name a file that exists and is not
	// empty. It is emptied.
	ReplaceDataFile bool
	Gate            driver.Gate
	// Objects holds the secrets that options refer to by id, or nil.
	Objects driver.Objects
	Budget  *driver.Budget
	Warn    func(string)
	Words   func(error) string // as in block.OpenOptions
	// Announce, if not nil, is called before the image is created,
	// once everything was checked.
	Announce func(Creating)

	connections *driver.Connections // to servers, kept for what comes after
}

// Creating describes an image that is about to be created: its options with
// their defaults, in the order of their declaration.
type Creating struct {
	Filename, Format string
	Options          []CreateOption
}

// CreateOption is an option with its value as text.
type CreateOption struct{ Name, Value string }

// CreateSchema returns the options with which an image can be created: those of
// the format, and those of the protocol that the file name selects.
func CreateSchema(reg *block.Registry, format, filename string) (*opts.Schema, error) {
	drv := reg.Lookup(format)
	if drv == nil {
		return nil, driver.Errorf(driver.ErrInvalid, "unknown file format '%s'", format)
	}
	if drv.Desc().CreateOptions == nil {
		return nil, driver.Errorf(driver.ErrUnsupported, "format driver '%s' does not support image creation", format)
	}
	if filename == "" {
		return opts.Merge(drv.Desc().CreateOptions), nil
	}
	proto, err := reg.FindProtocol(filename)
	if err != nil {
		return nil, err
	}
	if proto.Desc().CreateOptions == nil {
		return nil, driver.Errorf(driver.ErrUnsupported, "protocol driver '%s' does not support image creation", proto.Desc().Name)
	}
	return opts.Merge(drv.Desc().CreateOptions, proto.Desc().CreateOptions), nil
}

// Create makes an image the way "qemu-img create" does: the backing file must
// exist and its format be given; the size is that of the backing file if none is given.
func Create(ctx context.Context, job CreateJob) error {
	job.connections = &driver.Connections{}
	defer job.connections.Close()
	_, err := create(ctx, job)
	return err
}

// create is Create, and returns what was made.
func create(ctx context.Context, job CreateJob) (*block.Creation, error) {
	if err := job.check(); err != nil {
		return nil, err
	}
	schema, err := job.schema()
	if err != nil {
		return nil, err
	}
	d, size, err := createOptions(job, schema)
	if err != nil {
		return nil, err
	}
	backing, hasBacking := d["backing_file"]
	if hasBacking {
		name := opts.Text(backing)
		if name == job.Filename && job.Storage == nil {
			return nil, driver.Errorf(driver.ErrInvalid, "the image cannot have the name of its own backing file")
		}
		if name == "" {
			return nil, driver.Errorf(driver.ErrInvalid, "expected backing file name, got empty string")
		}
		if size, err = checkBacking(ctx, job, schema, name, d.String("backing_fmt"), size); err != nil {
			return nil, err
		}
	}
	if size < 0 {
		return nil, driver.Errorf(driver.ErrInvalid, "image creation needs a size parameter")
	}
	if err := checkDataFile(ctx, job, d); err != nil {
		return nil, err
	}
	if job.Announce != nil {
		job.Announce(describe(job, schema, job.Registry.Lookup(job.Format).Desc().CreateOrder, d, size))
	}
	made, err := block.Make(ctx, job.Registry, block.CreateRequest{Filename: job.Filename, Format: job.Format, Storage: job.Storage, Size: size,
		Options: d, Gate: job.Gate, Objects: job.Objects, Budget: job.Budget, Warn: job.Warn, Words: job.Words, Connections: job.connections})
	if errors.Is(err, driver.ErrTooLarge) {
		return nil, driver.Errorf(driver.ErrTooLarge, "the image size is too large for file format '%s'", job.Format)
	}
	return made, err
}

// check refuses a job that lacks a field without a default.
func (job *CreateJob) check() error {
	switch {
	case job.Registry == nil:
		return driver.Errorf(driver.ErrInvalid, "CreateJob.Registry is not set")
	case job.Format == "":
		return driver.Errorf(driver.ErrInvalid, "CreateJob.Format is not set")
	}
	if job.Gate == nil {
		job.Gate = driver.DenyAll
	}
	return nil
}

// schema returns the options that the image can have. A file name of "" still selects a
// protocol: that of files.
func (job *CreateJob) schema() (*opts.Schema, error) {
	if job.Storage != nil {
		return CreateSchema(job.Registry, job.Format, "")
	}
	return CreateSchema(job.Registry, job.Format, cmp.Or(job.Filename, "."))
}

// createOptions merges the options and the fields of the job.
func createOptions(job CreateJob, schema *opts.Schema) (opts.Dict, int64, error) {
	d := job.Options.Clone()
	if d == nil {
		d = opts.Dict{}
	}
	if err := schema.Check(d, job.Order...); err != nil {
		return nil, 0, err
	}
	size := job.Size
	text, given := d.TakeText("size")
	if given {
		if size > 0 {
			return nil, 0, driver.Errorf(driver.ErrInvalid, "the image size must be specified only once")
		}
		n, err := opts.ParseSizeUint(text, 'b')
		if err != nil || n > 1<<63-1 {
			return nil, 0, driver.Errorf(driver.ErrInvalid, "image size must be less than 8 EiB")
		}
		size = int64(n)
	}
	if job.Backing != nil {
		if schema.Lookup("backing_file") == nil {
			return nil, 0, driver.Errorf(driver.ErrUnsupported, "backing file not supported for file format '%s'", job.Format)
		}
		d["backing_file"] = *job.Backing
	}
	if job.BackingFormat != nil {
		if schema.Lookup("backing_fmt") == nil {
			return nil, 0, driver.Errorf(driver.ErrUnsupported, "backing file format not supported for file format '%s'", job.Format)
		}
		d["backing_fmt"] = *job.BackingFormat
	}
	if _, backing := d["backing_file"]; backing && size == 0 && !given {
		size = -1
	}
	return d, size, nil
}

// checkBacking opens the backing file, unless that is forbidden, and returns
// the size of the new disk.
func checkBacking(ctx context.Context, job CreateJob, schema *opts.Schema, name, format string, size int64) (int64, error) {
	// An image that cannot record the format cannot be given it.
	needed := schema.Lookup("backing_fmt") != nil
	if job.Unsafe {
		if format == "" && needed {
			return 0, driver.Errorf(driver.ErrInvalid, "backing file specified without backing format")
		}
		return size, nil
	}
	full := block.CombinePath(job.Filename, name)
	if err := job.Gate.Allow(ctx, job.Filename, "backing", full); err != nil {
		return 0, driver.Errorf(driver.ErrGate, "%w", err)
	}
	// A machine may be writing to the backing file: only its size is
	// read.
	img, err := block.Open(ctx, job.Registry, block.Source{Filename: full, Format: format},
		block.OpenOptions{Gate: job.Gate, Objects: job.Objects, Budget: job.Budget, Connections: job.connections, Messages: block.Messages{Warn: job.Warn, Words: job.Words}, Use: block.Use{NoIO: true}, Sharing: block.Sharing{Force: true}})
	if err != nil {
		var open *block.OpenError
		if errors.As(err, &open) && open == err {
			err = open.Err
		}
		return 0, &BackingError{Err: err}
	}
	detected, have := img.Format(), img.Size()
	if err := img.Close(ctx); err != nil {
		return 0, err
	}
	if format == "" && needed {
		return 0, driver.Errorf(driver.ErrInvalid, "backing file specified without backing format: it was detected as %s", detected)
	}
	if size < 0 {
		size = have
	}
	return size, nil
}

// BackingError says that the backing file of a new image could not be opened.
type BackingError struct{ Err error }

func (e *BackingError) Error() string { return driver.Text(e) }
func (e *BackingError) Unwrap() error { return e.Err }

// Template implements driver.Message.
func (e *BackingError) Template() (string, []any) { return "%v", []any{e.Err} }

// Hint is a further line for the user.
func (e *BackingError) Hint() string { return "Could not open backing image." }

func describe(job CreateJob, schema *opts.Schema, order []string, d opts.Dict, size int64) Creating {
	c := Creating{Filename: job.Filename, Format: job.Format}
	list := slices.Clone(schema.List())
	if order != nil {
		slices.SortStableFunc(list, func(a, b opts.Option) int {
			return slices.Index(order, a.Name) - slices.Index(order, b.Name)
		})
	}
	for _, o := range list {
		value := o.Default
		if v, ok := d[o.Name]; ok {
			value = opts.Text(v)
			if o.Type == opts.TypeSize {
				if n, err := opts.ParseSizeUint(value, 'b'); err == nil {
					value = opts.Text(n)
				}
			}
		} else if o.Name == "size" {
			value = opts.Text(size)
		} else if value == "" {
			continue
		}
		if o.Type == opts.TypeString {
			value = opts.EscapeComma(value)
		}
		c.Options = append(c.Options, CreateOption{o.Name, value})
	}
	return c
}
