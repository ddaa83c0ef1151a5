package mem

import (
	"context"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

type openOptions struct {
	Filename string `opt:"filename" help:"Name of a disk that exists already; without it, a new one is made"`
	Size     int64  `opt:"size" type:"size" help:"Size of a new disk"`
}

type createOptions struct {
	Size int64 `opt:"size" type:"size" help:"Virtual disk size"`
}

var desc = driver.Desc{
	Name:          "mem",
	Kind:          driver.KindProtocol,
	Schemes:       []string{"mem"},
	Summary:       "A sparse disk in memory",
	OpenOptions:   opts.SchemaOf(openOptions{}),
	CreateOptions: opts.SchemaOf(createOptions{}),
}

// Driver opens disks in memory.
type Driver struct {
	mu    sync.Mutex
	disks map[string]*Disk
}

// New returns a driver that knows no disks yet.
func New() driver.Driver { return &Driver{disks: map[string]*Disk{}} }

var (
	_ driver.Creator = (*Driver)(nil)
	_ driver.Deleter = (*Driver)(nil)
)

// Desc implements driver.Driver.
func (*Driver) Desc() *driver.Desc { return &desc }

// Add makes a disk known by name.
func (d *Driver) Add(name string, disk *Disk) {
	d.mu.Lock()
	d.disks[name] = disk
	d.mu.Unlock()
}

// Disk returns the disk called name, nil if there is none.
func (d *Driver) Disk(name string) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.disks[name]
}

// Open implements driver.Driver.
func (d *Driver) Open(_ context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o openOptions
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	disk := NewDisk(o.Size)
	if o.Filename != "" {
		if disk = d.Disk(o.Filename); disk == nil {
			return nil, driver.Errorf(driver.ErrNotExist, "could not open '%s': no such file or directory", o.Filename)
		}
	}
	n := &node{Disk: disk}
	if o.Filename != "" {
		n.name = "mem:" + o.Filename
	}
	if !req.Access.Write {
		return &readOnly{n, n, n, n}, nil
	}
	return n, nil
}

// Create implements driver.Creator.
func (d *Driver) Create(_ context.Context, req *driver.CreateRequest) error {
	var o createOptions
	if err := desc.CreateOptions.Decode(req.Options, &o); err != nil {
		return err
	}
	name := trim(req.Filename)
	if req.Made != nil {
		*req.Made = d.Disk(name) == nil
	}
	d.Add(name, NewDisk(req.Size))
	return nil
}

// Delete implements driver.Deleter.
func (d *Driver) Delete(_ context.Context, filename string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.disks[trim(filename)] == nil {
		return driver.Errorf(driver.ErrNotExist, "%s does not exist", filename)
	}
	delete(d.disks, trim(filename))
	return nil
}

func trim(name string) string {
	if len(name) > 4 && name[:4] == "mem:" {
		return name[4:]
	}
	return name
}

// node is an opened disk.
type node struct {
	*Disk
	name string
}

// Filename implements driver.Named.
func (n *node) Filename() string { return n.name }

// readOnly is a disk opened for reading: what it can beyond reading, it can no longer.
type readOnly struct {
	driver.Storage
	driver.Named
	driver.Stater
	driver.SpaceTeller
}

// WriteAt refuses.
func (r *readOnly) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, driver.Errorf(driver.ErrReadOnly, "the disk is read-only")
}
