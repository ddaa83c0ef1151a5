package imageopt

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// Base is an image that gets a temporary overlay.
type Base struct {
	Size             int64
	Format, Filename string
	// Options open it; nil: Filename does.
	Options opts.Dict
}

// OpeningError is an error of opening, as opposed to making, a temporary overlay.
type OpeningError struct{ Err error }

func (e *OpeningError) Error() string { return e.Err.Error() }
func (e *OpeningError) Unwrap() error { return e.Err }

// Temporary opens a temporary qcow2 image for writing that is backed by base, with extra
// options. It has no name any more when it is open, and vanishes with the process.
func Temporary(ctx context.Context, reg *block.Registry, base Base, extra opts.Dict, o block.OpenOptions) (*block.Image, error) {
	tmp, err := temporaryFile()
	if err != nil {
		return nil, fmt.Errorf("Could not get temporary filename: %w", err)
	}
	defer os.Remove(tmp)
	if err := block.Create(ctx, reg, block.CreateRequest{Filename: "file:" + tmp, Format: "qcow2", Size: base.Size, Gate: driver.AllowAll}); err != nil {
		return nil, fmt.Errorf("Could not create temporary overlay '%s': %w", tmp, err)
	}
	from := base.Options
	if from == nil {
		from = opts.Dict{"file.filename": base.Filename}
		if text, ok := strings.CutPrefix(base.Filename, "json:"); ok {
			if from, err = opts.ParseJSON(text); err != nil {
				return nil, &OpeningError{err}
			}
		}
	}
	d := extra.Clone()
	for k, v := range from {
		d["backing."+k] = v
	}
	d["backing.driver"] = base.Format
	o.Write = true
	o.Cache.NoFlush = true // it is not read after this process
	img, err := block.Open(ctx, reg, block.Source{Filename: tmp, Format: "qcow2", Options: d}, o)
	if err != nil {
		return nil, &OpeningError{err}
	}
	return img, nil
}

// temporaryFile makes an empty file.
func temporaryFile() (string, error) {
	dir := os.Getenv("TMPDIR")
	if dir == "" {
		dir = "/var/tmp"
		if _, err := os.Stat(dir); err != nil {
			dir = os.TempDir()
		}
	}
	f, err := os.CreateTemp(dir, "cowl-overlay-")
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}
