package ops

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// OverlayJob describes an overlay to be made.
type OverlayJob struct {
	Registry *block.Registry
	// Filename or Storage is where the overlay goes; see CreateJob.
	Filename string
	Storage  driver.Driver
	// Format of the overlay; "" is the first of Registry that has backing files.
	Format string
	// Options of the new image.
	Options opts.Dict
	// Size of the disk in bytes; 0: that of the base.
	Size int64

	// Base names the image below, as it is recorded in the overlay: a relative name
	// is looked for in the directory of the overlay. With Storage it must be absolute.
	// BaseFormat must be given, too: an image that is probed can say it is another's.
	Base, BaseFormat string

	// Gate decides about what the base names in turn, and about the other files that
	// Options name; it is not asked about Base itself. Nil is DenyAll.
	Gate    driver.Gate
	Cache   driver.Cache   // in which the overlay is opened
	Objects driver.Objects // the secrets that options refer to by id, or nil
	Budget  *driver.Budget // nil: the defaults
	Warn    func(string)
	Words   func(error) string // as in block.OpenOptions
	Log     *slog.Logger
}

// Overlay makes an image whose backing file is the base, and opens it: the
// base is not changed. It replaces a file of that name. The image is open for writing; the
// caller closes it. If it cannot be opened it is removed again.
func Overlay(ctx context.Context, job OverlayJob) (*block.Image, error) {
	if err := job.check(); err != nil {
		return nil, err
	}
	gate := job.gate()
	if err := job.keepBase(ctx, gate); err != nil {
		return nil, err
	}
	connections := &driver.Connections{}
	defer connections.Close()
	made, err := create(ctx, CreateJob{connections: connections, Registry: job.Registry, Filename: job.Filename, Storage: job.Storage, Format: job.Format,
		Options: job.Options, Size: job.Size, Backing: &job.Base, BackingFormat: &job.BaseFormat,
		Gate: gate, Objects: job.Objects, Budget: job.Budget, Warn: job.Warn, Words: job.Words})
	if err != nil {
		return nil, err
	}
	img, err := block.Open(ctx, job.Registry,
		block.Source{Filename: job.Filename, Storage: job.Storage, Format: job.Format, Options: keyOptions(job.Options)},
		block.OpenOptions{Write: true, Unmap: true, Cache: job.Cache, Gate: gate, Objects: job.Objects, Budget: job.Budget, Connections: connections, Messages: block.Messages{Warn: job.Warn, Words: job.Words, Log: job.Log}})
	if err != nil {
		return nil, errors.Join(err, made.Undo(ctx))
	}
	return img, nil
}

// check refuses a job that lacks a field without a default, and sets the defaults.
func (job *OverlayJob) check() error {
	switch {
	case job.Registry == nil:
		return driver.Errorf(driver.ErrInvalid, "OverlayJob.Registry is not set")
	case job.Base == "":
		return driver.Errorf(driver.ErrInvalid, "OverlayJob.Base is not set")
	case job.BaseFormat == "":
		return driver.Errorf(driver.ErrInvalid, "OverlayJob.BaseFormat is not set: name the format of '%s'", job.Base)
	case job.Storage != nil && block.CombinePath("dir/", job.Base) != job.Base:
		return driver.Errorf(driver.ErrInvalid, "OverlayJob.Base '%s' is relative, and Storage has no directory: make it absolute", job.Base)
	}
	if job.Format == "" {
		for _, d := range job.Registry.Drivers() {
			if d.Desc().CreateOptions.Lookup("backing_file") != nil {
				job.Format = d.Desc().Name
				break
			}
		}
	}
	if job.Format == "" {
		return driver.Errorf(driver.ErrUnsupported, "no driver of OverlayJob.Registry makes images with backing files")
	}
	if job.Gate == nil {
		job.Gate = driver.DenyAll
	}
	return nil
}

// keepBase opens the base, so that nothing is made if it cannot be, and refuses to replace
// it or a layer below it.
func (job *OverlayJob) keepBase(ctx context.Context, gate driver.Gate) (err error) {
	base, err := block.Open(ctx, job.Registry, block.Source{Filename: block.CombinePath(job.Filename, job.Base), Format: job.BaseFormat},
		block.OpenOptions{Gate: gate, Objects: job.Objects, Budget: job.Budget, Use: block.Use{NoIO: true}, Sharing: block.Sharing{Force: true}})
	if err != nil {
		return &BackingError{Err: err}
	}
	defer func() { err = errors.Join(err, base.Close(ctx)) }()
	if job.Storage != nil {
		return keepFromStorage(ctx, job.Registry, job.Storage, []*block.Image{base})
	}
	return KeepSources(job.Filename, base)
}

// gate lets the overlay refer to its base, and asks job.Gate about all else.
func (job *OverlayJob) gate() driver.Gate {
	plain := func(name string) string { return strings.TrimPrefix(name, "file:") }
	base, ask := plain(block.CombinePath(job.Filename, job.Base)), job.Gate
	return driver.GateFunc(func(ctx context.Context, parent, role, target string) error {
		if role == "backing" && plain(target) == base {
			return nil
		}
		return ask.Allow(ctx, parent, role, target)
	})
}
