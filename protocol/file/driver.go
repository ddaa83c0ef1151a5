package file

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

var fileDesc = driver.Desc{
	Name:          "file",
	Kind:          driver.KindProtocol,
	Schemes:       []string{"file"},
	PlainNames:    true,
	Summary:       "Regular files of this machine",
	OpenOptions:   openSchema,
	CreateOptions: createSchema,
}

var deviceDesc = driver.Desc{
	Name:          "host_device",
	Kind:          driver.KindProtocol,
	Schemes:       []string{"host_device"},
	Summary:       "Block and character devices of this machine",
	OpenOptions:   openSchema,
	CreateOptions: deviceCreateSchema,
}

var cdromDesc = driver.Desc{
	Name:        "host_cdrom",
	Kind:        driver.KindProtocol,
	Schemes:     []string{"host_cdrom"},
	Summary:     "CD and DVD drives of this machine",
	OpenOptions: openSchema,
}

type fileDriver struct{ desc *driver.Desc }

// New returns the driver "file".
func New() driver.Driver { return &regular{fileDriver{&fileDesc}} }

// NewHostDevice returns the driver "host_device".
func NewHostDevice() driver.Driver { return &device{fileDriver{&deviceDesc}} }

// NewHostCDROM returns the driver "host_cdrom": that of devices by another name, which
// command lines have for drives.
func NewHostCDROM() driver.Driver { return &cdrom{fileDriver{&cdromDesc}} }

// regular is the driver "file".
type regular struct{ fileDriver }

// device is the driver "host_device".
type device struct{ fileDriver }

// cdrom is the driver "host_cdrom".
type cdrom struct{ fileDriver }

var (
	_ driver.Creator = (*regular)(nil)
	_ driver.Deleter = (*regular)(nil)
	_ driver.Creator = (*device)(nil)

	_ driver.NameProber = (*device)(nil)
)

// ProbeName implements driver.NameProber. Only on Linux devices need more than files do.
func (*device) ProbeName(name string) bool { return runtime.GOOS == "linux" && IsDevice(name) }

// IsDevice reports whether name is a device, so that "host_device" should open
// it where no driver is named.
func IsDevice(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode()&fs.ModeDevice != 0
}

// Desc implements driver.Driver.
func (d *fileDriver) Desc() *driver.Desc { return d.desc }

// Open implements driver.Driver. Several nodes may be open on one file, in this
// process too: image locks exclude each other.
func (d *fileDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o openOptions
	if err := openSchema.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	if o.Filename == "" {
		return nil, driver.Errorf(driver.ErrInvalid, "the '%s' block driver requires a file name", d.desc.Name)
	}
	if err := o.check(req.Cache); err != nil {
		return nil, err
	}
	f, err := d.openFile(o.Filename, req.Access.Write, req.Cache.Direct)
	if err != nil && d.desc == &fileDesc {
		if inside, written := describes(o.Filename); inside != "" {
			if req.Access.Write && !written {
				return nil, driver.Errorf(driver.ErrReadOnly, "the image '%s' is a folder: it can be read only", o.Filename)
			}
			o.Filename = inside
			f, err = d.openFile(inside, req.Access.Write, req.Cache.Direct)
		}
	}
	if err != nil {
		return nil, err
	}
	n, err := newNode(f, d.desc.Name, o.Filename, req)
	if err == nil {
		n.locking = o.Locking
		err = n.Relock(ctx, req.Access)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return n, nil
}

// openFile opens name and makes sure that it is what the driver is for.
func (d *fileDriver) openFile(name string, write, direct bool) (*os.File, error) {
	// Opening a pipe would wait for its other end.
	if st, err := os.Stat(name); err == nil && st.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		return nil, d.wrongType(name)
	}
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	f, err := openPath(name, flags, direct)
	if err != nil {
		if direct && errors.Is(err, syscall.EINVAL) {
			return nil, driver.Errorf(syscall.EINVAL, "could not open '%s': filesystem does not support O_DIRECT", name)
		}
		return nil, sysErrorf(err, "could not open '%s'", name)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, sysErrorf(err, "could not stat file")
	}
	isDevice := d.desc != &fileDesc
	if st.Mode()&fs.ModeDevice != 0 != isDevice || !isDevice && !st.Mode().IsRegular() {
		f.Close()
		return nil, d.wrongType(name)
	}
	if isDevice && write {
		if err := deviceWritable(f); err != nil {
			f.Close()
			return nil, sysErrorf(err, "the device is not writable")
		}
	}
	return f, nil
}

func (d *fileDriver) wrongType(name string) error {
	want := "a regular file"
	if d.desc != &fileDesc {
		want = "either a character or block device"
	}
	return driver.Errorf(driver.ErrInvalid, "'%s' driver requires '%s' to be %s", d.desc.Name, name, want)
}

// ParseFilename implements driver.FilenameParser. What is left of a name without
// its scheme shall not look like a name with another scheme.
func (d *fileDriver) ParseFilename(name string) (opts.Dict, error) {
	rest := d.path(name)
	if i := strings.IndexAny(rest, ":/"); rest != name && i >= 0 && rest[i] == ':' && filepath.VolumeName(rest) == "" {
		rest = "./" + rest
	}
	return opts.Dict{"filename": rest}, nil
}

// path removes the scheme of a name given to Create or Delete.
func (d *fileDriver) path(name string) string {
	return strings.TrimPrefix(name, d.desc.Name+":")
}
