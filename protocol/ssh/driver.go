package ssh

import (
	"context"
	"errors"
	"math"
	"os"
	"runtime"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

const sectorSize = 512

var createSchema = opts.SchemaOf(struct{}{})

var desc = driver.Desc{
	Name:          "ssh",
	Kind:          driver.KindProtocol,
	Schemes:       []string{"ssh", "sftp"},
	Summary:       "Files of SSH servers",
	OpenOptions:   openSchema,
	CreateOptions: createSchema,
}

// New returns the driver "ssh".
func New() driver.Driver { return sshDriver{} }

type sshDriver struct{}

var (
	_ driver.FilenameParser = sshDriver{}
	_ driver.Creator        = sshDriver{}
)

// Desc implements driver.Driver.
func (sshDriver) Desc() *driver.Desc { return &desc }

// ParseFilename implements driver.FilenameParser.
func (sshDriver) ParseFilename(name string) (opts.Dict, error) { return parseName(name) }

// Open implements driver.Driver.
func (sshDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	o, err := decode(req.Options, req.Env)
	if err != nil {
		var unknown *opts.UnknownError
		if errors.As(err, &unknown) {
			return nil, invalid("parameter '%s' is unexpected", unknown.Name)
		}
		return nil, err
	}
	d, err := newDialer(o, req.Env)
	if err != nil {
		return nil, err
	}
	n := &node{d: d, write: req.Access.Write, noFlush: req.Cache.NoFlush, most: int(o.Connections), ballast: make([]byte, ballastSize)}
	if n.most == 0 {
		n.most = defaultConnections
	}
	s, size, modified, err := n.first(ctx)
	if err != nil {
		return nil, err
	}
	if o.Connections == 0 && !s.window.far {
		n.most = min(defaultConnections, max(2, runtime.GOMAXPROCS(0)))
	}
	n.ctx, n.stop = context.WithCancel(context.Background())
	n.sessions, n.modified = []*session{s}, modified
	n.size.Store(size)
	n.content = size
	if n.write {
		n.learnBoot(s)
	}
	if _, n.syncs = s.sftp.HasExtension("fsync@openssh.com"); n.write && !n.syncs && req.Env.Warn != nil {
		req.Env.Warn("ssh server " + d.t.alias + " does not support fsync\nto support fsync, you need OpenSSH >= 6.3")
	}
	return n, nil
}

// Create implements driver.Creator: a file that exists is emptied.
func (sshDriver) Create(ctx context.Context, req *driver.CreateRequest) (err error) {
	if err := createSchema.Decode(req.Options, &struct{}{}); err != nil {
		return err
	}
	if req.Size < 0 || req.Size > math.MaxInt64-sectorSize {
		return driver.Errorf(driver.ErrTooLarge, "image size %d is too large", req.Size)
	}
	o, d, s, err := connect(ctx, req.Filename, req.Env)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.keep(ctx, s)) }()
	made := s.open(ctx, o.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL) == nil
	if !made { // in version 3 of SFTP the server cannot say that the file exists
		if err := s.open(ctx, o.Path, os.O_RDWR|os.O_CREATE|os.O_TRUNC); err != nil {
			return openError(o.Path, err)
		}
	}
	defer func() {
		if made && err != nil {
			last, cancel := driver.Farewell(ctx, driver.UndoingTime)
			made = s.remove(last, o.Path) != nil
			cancel()
		}
		if req.Made != nil {
			*req.Made = made
		}
	}()
	size := (req.Size + sectorSize - 1) / sectorSize * sectorSize
	if size == 0 {
		return nil
	}
	if err := s.do(ctx, true, func() error { return s.file.Truncate(size) }); err != nil {
		return driver.Errorf(nil, "failed to resize remote file '%s' to %d bytes: %w", o.Path, size, err)
	}
	return nil
}

// connect connects to the server that a name means.
func connect(ctx context.Context, name string, env *driver.Env) (*openOptions, *dialer, *session, error) {
	given, err := parseName(name)
	if err != nil {
		return nil, nil, nil, err
	}
	o, err := decode(given, env)
	if err != nil {
		return nil, nil, nil, err
	}
	d, err := newDialer(o, env)
	if err != nil {
		return nil, nil, nil, err
	}
	s, err := d.session(ctx)
	return o, d, s, err
}

// Delete implements driver.Deleter.
func (sshDriver) Delete(ctx context.Context, filename string) error {
	o, _, s, err := connect(ctx, filename, nil)
	if err != nil {
		return err
	}
	if err = s.remove(ctx, o.Path); err != nil {
		err = driver.Errorf(nil, "failed to remove remote file '%s': %w", o.Path, err)
	}
	return errors.Join(err, s.close(ctx))
}

func openError(path string, err error) error {
	return driver.Errorf(nil, "failed to open remote file '%s': %w", path, err)
}
