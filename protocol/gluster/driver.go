package gluster

import (
	"context"
	"fmt"
	"math"
	"strings"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/native"
	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/opts"
)

const (
	sectorSize = 512
	// maxTransfer bounds a request: several versions of Gluster fail with a GiB.
	maxTransfer = 512 << 20
	// removing bounds the removal of a file after a failure, which may be that the server is
	// gone.
	removing = 300 * time.Millisecond
)

// createOptions are the options of a new file.
type createOptions struct {
	Prealloc string `opt:"preallocation" help:"Preallocation mode (allowed values: off, falloc, full)"`
	Debug    *int64 `opt:"debug" help:"Gluster log level, valid range is 0-9"`
	LogFile  string `opt:"logfile" help:"Logfile path of libgfapi"`
}

var createSchema = opts.SchemaOf(createOptions{})

var desc = driver.Desc{
	Name:          "gluster",
	Kind:          driver.KindProtocol,
	Schemes:       []string{"gluster", "gluster+tcp", "gluster+unix", "gluster+rdma"},
	Summary:       "Files of Gluster volumes",
	OpenOptions:   openSchema,
	CreateOptions: createSchema,
}

// New returns the driver "gluster".
func New() driver.Driver { return glusterDriver{} }

type glusterDriver struct{}

var (
	_ driver.FilenameParser = glusterDriver{}
	_ driver.Creator        = glusterDriver{}
	_ driver.Deleter        = glusterDriver{}
)

// Desc implements driver.Driver.
func (glusterDriver) Desc() *driver.Desc { return &desc }

// ParseFilename implements driver.FilenameParser.
func (glusterDriver) ParseFilename(name string) (opts.Dict, error) {
	return opts.Dict{"filename": name}, nil
}

// Open implements driver.Driver.
func (glusterDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	if req.Env != nil && req.Env.Warn != nil {
		req.Env.Warn("'gluster' is deprecated")
	}
	o, err := decode(req.Options)
	if err != nil {
		return nil, err
	}
	args, err := o.args()
	if err != nil {
		return nil, err
	}
	if o.rdma && req.Env != nil && req.Env.Warn != nil {
		req.Env.Warn("Gluster has no RDMA transport any more: TCP is used")
	}
	args.Write, args.Direct = req.Access.Write, req.Cache.Direct
	d, err := o.engine().Open(ctx, req.Env, args, native.Options{Write: req.Access.Write, NoFlush: req.Cache.NoFlush, Sequential: req.Sequential,
		Timeout: o.timeout(), Limits: driver.Limits{MaxTransfer: maxTransfer}, Subject: "the file '" + args.Path + "'"})
	if err != nil {
		return nil, err
	}
	return &node{Disk: d, o: o}, nil
}

// Create implements driver.Creator: a file that exists is emptied.
func (glusterDriver) Create(ctx context.Context, req *driver.CreateRequest) error {
	var c createOptions
	if err := createSchema.Decode(req.Options, &c); err != nil {
		return err
	}
	if req.Size < 0 || req.Size > math.MaxInt64-sectorSize {
		return driver.Errorf(driver.ErrTooLarge, "image size %d is too large", req.Size)
	}
	o := &openOptions{Filename: req.Filename, Debug: c.Debug, LogFile: c.LogFile}
	if err := o.parseName(req.Filename); err != nil {
		return err
	}
	args, err := o.args()
	if err != nil {
		return err
	}
	args.Size = (req.Size + sectorSize - 1) / sectorSize * sectorSize
	switch c.Prealloc {
	case "", "off":
	case "metadata", "falloc", "full":
		args.Prealloc = c.Prealloc
	default:
		return invalid("invalid parameter value: %s", c.Prealloc)
	}
	return o.engine().Create(ctx, req.Env, args, req.Made)
}

// Delete implements driver.Deleter.
func (glusterDriver) Delete(ctx context.Context, filename string) error {
	o := &openOptions{Filename: filename}
	if err := o.parseName(filename); err != nil {
		return err
	}
	args, err := o.args()
	if err != nil {
		return err
	}
	return o.engine().Delete(ctx, args, removing)
}

// engine returns Gluster, as a program of its own.
func (o *openOptions) engine() *native.Engine {
	return &native.Engine{Name: "gluster", Text: "Gluster", Packages: "the package libgfapi0, or glusterfs-api", Error: o.stepError}
}

// stepError words a step that failed.
func (o *openOptions) stepError(e *link.Error) error {
	no := syscall.Errno(e.Errno)
	switch e.Step {
	case "connect":
		return connectError{driver.Errorf(no, "gluster connection for volume %s, path %s failed to connect", *o.Volume, *o.Path), o.Server}
	case "open":
		if o.Filename == "" {
			return driver.Errorf(nil, "could not open image: %w", no)
		}
		return driver.Errorf(nil, "could not open '%s': %w", o.Filename, no)
	case "size":
		return driver.Errorf(nil, "failed to determine current size: %w", no)
	case "preallocation when shrinking":
		return driver.Errorf(driver.ErrUnsupported, "cannot use preallocation for shrinking files")
	case "preallocate":
		return driver.Errorf(nil, "could not preallocate data: %w", no)
	case "resize":
		return driver.Errorf(nil, "could not resize file: %w", no)
	case "zero":
		return driver.Errorf(nil, "could not zerofill the new area: %w", no)
	case "preallocation":
		return driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode: %s", e.Name)
	}
	return no
}

// connectError is a volume that no server gives.
type connectError struct {
	error
	servers []server
}

func (e connectError) Unwrap() error { return e.error }

// Hint says which servers were asked.
func (e connectError) Hint() string {
	var b strings.Builder
	for _, s := range e.servers {
		if s.unix() {
			fmt.Fprintf(&b, "hint: failed on socket %s ", *s.Path)
		} else {
			fmt.Fprintf(&b, "hint: failed on host %s and port %s ", *s.Host, *s.Port)
		}
	}
	return b.String() + "Please refer to gluster logs for more info"
}
