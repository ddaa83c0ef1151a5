package ops

import (
	"context"
	"errors"
	"hash"
	"io"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// CopyJob says what disk to copy where, as the command convert does it. The source is
// one of Files, Sources and Reader, the target one of New and Target. All else may be
// left at its zero value.
type CopyJob struct {
	// Files are opened with Open for reading, read one after the other as one disk,
	// and closed. Registry is needed for them.
	Files    []block.Source
	Open     block.OpenOptions
	Registry *block.Registry
	// Sources are read likewise; they stay open.
	Sources []*block.Image
	// Reader holds a raw disk, which ends where Reader does.
	Reader io.Reader
	// ReaderSize is the length of the disk in Reader, if that is known: New has it from the start then, and another
	// length is an error. 0 where only its end tells.
	ReaderSize int64

	// New is the image to be made; with a backing file, what the top layer of the
	// source leaves to its own is left to it. Its size is that of the source, whatever
	// New says. It is removed again if the copy fails, unless it existed before.
	New      *CreateJob
	NewCache driver.Cache // the cache mode in which New is written
	// Target is open for writing, and at least as large as the source. What is behind
	// the end of the source stays. It is neither flushed nor closed.
	Target *block.Image
	// TargetIsZero: Target is known to read as zeroes. Refused where that cannot be.
	TargetIsZero bool
	// UseBacking leaves to the backing file of Target what the top layer of the source
	// leaves to its own.
	UseBacking bool

	// Bitmaps copies the persistent dirty bitmaps of the source as well.
	Bitmaps bool
	// SkipInconsistent leaves out bitmaps that are no longer true, and tells Warn.
	SkipInconsistent bool

	Compress bool // write compressed clusters
	// Sparse is how many zero bytes in a row become a hole; 0 means DefaultSparse,
	// a negative number that every byte is written.
	Sparse     int64
	Workers    int  // bound of requests under way, 0: a default
	OutOfOrder bool // the room in the target may be laid out in any order
	CopyRange  bool // let the system copy, without a search for zeroes
	Reflink    ReflinkMode
	RateLimit  int64 // bytes per second, 0: none
	// Salvage replaces what cannot be read by zeroes, and tells Salvaged what, or Warn
	// if that is nil. What went wrong at "map" is the block status.
	Salvage  bool
	Salvaged func(off int64, err error) // called one at a time, not in order
	// Checksum, if not nil, takes the bytes of the disk in order.
	Checksum hash.Hash
	Progress ProgressFunc
	// ProgressByPosition lets Progress count positions on the disk, not the bytes that
	// are copied. Nothing need be known of the disk beforehand then.
	ProgressByPosition bool
	Warn               func(string)
}

// CopyStage says how far a copy had come when it failed.
type CopyStage int

// The stages of a copy.
const (
	CopyCheck      CopyStage = iota // the job cannot be done; nothing was changed
	CopyOpenSource                  // a source could not be opened; nothing was changed
	CopyCreate                      // the target could not be made
	CopyOpenTarget                  // the new target could not be opened
	CopyData                        // the target is incomplete
)

// CopyError says at which stage a copy failed.
type CopyError struct {
	Stage CopyStage
	Err   error
	// Remains says which file is left that is not complete, and why; nil if none is.
	Remains error
}

func (e *CopyError) Error() string { return driver.Text(e) }
func (e *CopyError) Unwrap() error { return e.Err }

// Template implements driver.Message.
func (e *CopyError) Template() (string, []any) {
	if e.Remains == nil {
		return "%v", []any{e.Err}
	}
	return "%v; %v", []any{e.Err, e.Remains}
}

// IncompleteError says that a target was written in part.
type IncompleteError struct{ Target string }

func (e *IncompleteError) Error() string { return driver.Text(e) }

// Template implements driver.Message.
func (e *IncompleteError) Template() (string, []any) {
	return "the target '%s' is incomplete", []any{e.Target}
}

// Copy runs a CopyJob. Its errors are CopyErrors.
func Copy(ctx context.Context, job CopyJob) (ConvertResult, error) {
	c := &copying{job: job}
	defer c.closeFiles(ctx)
	for _, src := range job.Files {
		if err := c.openFile(ctx, src); err != nil {
			return ConvertResult{}, &CopyError{Stage: CopyOpenSource, Err: err}
		}
	}
	if err := c.check(ctx); err != nil {
		return ConvertResult{}, &CopyError{Stage: CopyCheck, Err: err}
	}
	if job.New == nil {
		res, err := c.transfer(ctx, job.Target)
		if err != nil {
			err = &CopyError{Stage: CopyData, Err: err, Remains: &IncompleteError{job.Target.Filename()}}
		}
		return res, err
	}
	return c.toNew(ctx)
}

// copying is the state of a Copy.
type copying struct {
	job     CopyJob
	opened  []*block.Image
	options opts.Dict // of the new target
	size    int64     // of the source
}

func (c *copying) openFile(ctx context.Context, src block.Source) error {
	if c.job.Registry == nil {
		return driver.Errorf(driver.ErrInvalid, "CopyJob.Registry is not set")
	}
	o := c.job.Open
	o.Write, o.Use.Sequential = false, true
	img, err := block.Open(ctx, c.job.Registry, src, o)
	if err == nil {
		c.opened = append(c.opened, img)
		c.job.Sources = append(c.job.Sources[:len(c.job.Sources):len(c.job.Sources)], img)
	}
	return err
}

func (c *copying) closeFiles(ctx context.Context) {
	last, cancel := driver.Farewell(ctx, driver.ClosingTime)
	defer cancel()
	for _, img := range c.opened {
		_ = img.Close(last) // nothing was written
	}
}

// attempts is how often a target is made at most, where its server forgets what it has taken.
const attempts = 4

// toNew makes the target and fills it; from the start again, if its server was restarted and
// has lost what nobody had flushed.
func (c *copying) toNew(ctx context.Context) (ConvertResult, error) {
	for left := attempts - 1; ; left-- {
		res, err := c.tryNew(ctx)
		if !errors.Is(err, driver.ErrForgotten) || left == 0 || c.job.Reader != nil || ctx.Err() != nil {
			return res, err
		}
		if c.job.Checksum != nil {
			c.job.Checksum.Reset()
		}
		if c.job.Warn != nil {
			c.job.Warn(driver.Errorf(nil, "copying begins again: %w", err).Error())
		}
	}
}

// tryNew makes the target, fills it, and removes it again if that fails.
func (c *copying) tryNew(ctx context.Context) (ConvertResult, error) {
	n := c.job.New
	connections := &driver.Connections{}
	defer connections.Close()
	made, err := block.Make(ctx, n.Registry, block.CreateRequest{Filename: n.Filename, Format: n.Format, Storage: n.Storage, Size: c.size,
		Options: c.options, Cache: c.job.NewCache, Gate: n.Gate, Objects: n.Objects, Budget: n.Budget, Warn: n.Warn, Words: n.Words, Connections: connections})
	if err != nil {
		fail := &CopyError{Stage: CopyCreate, Err: err}
		var remains *block.RemainsError
		if errors.As(err, &remains) {
			fail.Err, fail.Remains = remains.Err, remains.Remains
		}
		return ConvertResult{}, fail
	}
	var res ConvertResult
	stage := CopyOpenTarget
	target, err := block.Open(ctx, n.Registry, block.Source{Filename: n.Filename, Format: n.Format, Storage: n.Storage, Options: keyOptions(c.options)},
		block.OpenOptions{Write: true, Use: block.Use{Sequential: true, Repeatable: c.job.Reader == nil}, Sharing: block.Sharing{Resize: c.job.Reader != nil}, Unmap: c.job.Sparse >= 0, Cache: c.job.NewCache,
			Gate: n.Gate, Objects: n.Objects, Budget: n.Budget, Connections: connections, Messages: block.Messages{Warn: n.Warn, Words: n.Words}})
	if err == nil {
		stage = CopyCheck
		if err = c.checkBitmaps(ctx, target); err == nil {
			stage = CopyData
			res, err = c.transfer(ctx, target)
		}
		last, cancel := driver.Farewell(ctx, driver.ClosingTime)
		if e := target.Close(last); err == nil {
			err = e
		}
		if err == nil && last.Err() != nil {
			err = ctx.Err() // it was cut short
		}
		cancel()
	}
	if err == nil {
		return res, nil
	}
	fail := &CopyError{Stage: stage, Err: err}
	if e := made.Undo(ctx); e != nil {
		fail.Remains = e
	}
	return res, fail
}

// keyOptions are the options that open an image once it is made: those that name the
// secrets it is made with.
func keyOptions(d opts.Dict) opts.Dict {
	var keys opts.Dict
	for name, v := range d {
		if strings.HasSuffix(name, "key-secret") {
			if keys == nil {
				keys = opts.Dict{}
			}
			keys[name] = v
		}
	}
	return keys
}

// transfer copies to an open target, bitmaps last.
func (c *copying) transfer(ctx context.Context, target *block.Image) (ConvertResult, error) {
	job := &c.job
	cv := ConvertJob{Sources: job.Sources, Target: target, TargetZero: job.TargetIsZero, Compress: job.Compress, Sparse: max(0, job.Sparse),
		Workers: job.Workers, OutOfOrder: job.OutOfOrder, CopyRange: job.CopyRange, Reflink: job.Reflink, RateLimit: job.RateLimit,
		Salvage: job.Salvage, Salvaged: job.Salvaged, Checksum: job.Checksum, Progress: job.Progress, ProgressByPosition: job.ProgressByPosition, Warn: job.Warn}
	switch {
	case job.New == nil && job.UseBacking:
		cv.TargetBase = target.Backing()
	case job.New != nil && c.options.String("backing_file") != "":
		cv.TargetBase, cv.TargetNew = target.Backing(), true
	case job.New != nil && (cv.Sparse > 0 || job.Reader != nil):
		cv.TargetZero = target.Traits().ZeroInit && !keepsDataFile(c.options)
	}
	if job.Reader != nil {
		cv.ReaderSize = job.ReaderSize
		return ConvertFromReader(ctx, job.Reader, cv)
	}
	res, err := Convert(ctx, cv)
	if err == nil && job.Bitmaps {
		err = CopyBitmaps(ctx, job.Sources[0], target, job.Warn)
	}
	return res, err
}
