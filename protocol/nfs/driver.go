package nfs

import (
	"context"
	"errors"
	"math"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/readahead"
	"github.com/cowl-disk/cowl/nfs"
	"github.com/cowl-disk/cowl/opts"
)

const (
	sectorSize = 512
	// createMode is that of new files.
	createMode = 0o600

	// mostLoose is how much of a disk that need not be flushed, and would be written again from the start, is
	// written, in bytes, without what the server may lose being kept.
	mostLoose = 1 << 30

	// windowSize is what is fetched ahead at once, in bytes, maxAhead how many windows of it
	// there are, at most, before the reader, and maxWindows how many are held.
	windowSize = 1 << 20
	maxAhead   = 8
	maxWindows = 16
)

var createSchema = opts.SchemaOf(struct{}{})

var desc = driver.Desc{
	Name:          "nfs",
	Kind:          driver.KindProtocol,
	Schemes:       []string{"nfs"},
	Summary:       "Files of NFS servers",
	OpenOptions:   openSchema,
	CreateOptions: createSchema,
}

// New returns the driver "nfs".
func New() driver.Driver { return nfsDriver{} }

type nfsDriver struct{}

var (
	_ driver.FilenameParser = nfsDriver{}
	_ driver.Creator        = nfsDriver{}
	_ driver.Deleter        = nfsDriver{}
)

// Desc implements driver.Driver.
func (nfsDriver) Desc() *driver.Desc { return &desc }

// ParseFilename implements driver.FilenameParser.
func (nfsDriver) ParseFilename(name string) (opts.Dict, error) { return parseName(name) }

// mount connects to the server, or takes the connection that an earlier request has left.
func (o *openOptions) mount(ctx context.Context, env *driver.Env) (*nfs.Client, error) {
	if c := o.take(env); c != nil {
		return c, nil
	}
	directory, _ := o.split()
	c, err := nfs.Mount(ctx, o.config(env), directory)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, driver.Errorf(nil, "failed to mount nfs share: %w", err)
	}
	return c, nil
}

// Open implements driver.Driver.
func (nfsDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	o, err := decode(req.Options, req.Env, req.Cache)
	if err != nil {
		return nil, err
	}
	c, err := o.mount(ctx, req.Env)
	if err != nil {
		return nil, err
	}
	_, file := o.split()
	f, attr, err := c.Open(ctx, file, req.Access.Write)
	if err == nil && !attr.Regular {
		if attr.Directory {
			err = errors.New("it is a directory")
		} else {
			err = errors.New("it is no regular file")
		}
	}
	if err != nil {
		c.Close(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, driver.Errorf(nil, "failed to open file: %w", err)
	}
	n := &node{o: o, c: c, f: f, env: req.Env, write: req.Access.Write, noFlush: req.Cache.NoFlush}
	n.size.Store(attr.Size)
	n.content = attr.Size
	if n.noFlush && req.Repeatable {
		f.Loosely(mostLoose)
	}
	if o.Readahead != nil || o.PageCache != nil {
		n.cache = newCache(f, number(o.Readahead), number(o.PageCache))
	} else if !n.write {
		n.ahead = readahead.New(readahead.Config{Window: windowSize, Ahead: maxAhead, Keep: maxWindows, Size: n.Size, Read: f.ReadAt})
	}
	return n, nil
}

// named decodes the options in a file name.
func named(name string, env *driver.Env) (*openOptions, error) {
	given, err := parseName(name)
	if err != nil {
		return nil, err
	}
	return decode(given, env, driver.Cache{})
}

// Create implements driver.Creator: a file that exists is emptied.
func (nfsDriver) Create(ctx context.Context, req *driver.CreateRequest) (err error) {
	if err := createSchema.Decode(req.Options, &struct{}{}); err != nil {
		return err
	}
	if req.Size < 0 || req.Size > math.MaxInt64-sectorSize {
		return driver.Errorf(driver.ErrTooLarge, "image size %d is too large", req.Size)
	}
	o, err := named(req.Filename, req.Env)
	if err != nil {
		return err
	}
	c, err := o.mount(ctx, req.Env)
	if err != nil {
		return err
	}
	defer func() { o.keep(ctx, req.Env, c, err) }()
	_, name := o.split()
	f, attr, made, err := c.Create(ctx, name, createMode)
	if err == nil && !attr.Regular {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return driver.Errorf(nil, "failed to create file: %w", err)
	}
	defer func() {
		err = errors.Join(err, f.Close(ctx))
		if made && err != nil {
			last, cancel := driver.Farewell(ctx, driver.UndoingTime)
			made = c.Remove(last, name) != nil
			cancel()
		}
		if req.Made != nil {
			*req.Made = made
		}
	}()
	if attr.Size > 0 {
		err = f.Resize(ctx, 0)
	}
	if size := (req.Size + sectorSize - 1) / sectorSize * sectorSize; err == nil && size > 0 {
		err = f.Resize(ctx, size)
	}
	return truncateError(ctx, err)
}

func truncateError(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return errors.Join(ctx.Err())
	}
	return driver.Errorf(nil, "failed to truncate file: %w", err)
}

// Delete implements driver.Deleter.
func (nfsDriver) Delete(ctx context.Context, filename string) error {
	o, err := named(filename, nil)
	if err != nil {
		return err
	}
	c, err := o.mount(ctx, nil)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, name := o.split()
	if err := c.Remove(ctx, name); err != nil {
		return driver.Errorf(nil, "failed to remove '%s' from '%s': %w", o.Path, o.address(), err)
	}
	return nil
}
