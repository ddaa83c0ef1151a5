package caller_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/caller"
)

// named makes storage of files, and opens it by name: the suite knows names alone.
type named struct {
	desc driver.Desc
	make func(f *os.File, size int64) driver.Driver

	mu    sync.Mutex
	files map[string]driver.Driver
}

type namedOptions struct {
	Filename string `opt:"filename"`
}

type namedCreateOptions struct {
	Size int64 `opt:"size" type:"size"`
}

func newNamed(make func(f *os.File, size int64) driver.Driver) *named {
	return &named{make: make, files: map[string]driver.Driver{}, desc: driver.Desc{Name: "named", Kind: driver.KindProtocol,
		Schemes: []string{"named"}, OpenOptions: opts.SchemaOf(namedOptions{}), CreateOptions: opts.SchemaOf(namedCreateOptions{})}}
}

func (d *named) Desc() *driver.Desc { return &d.desc }

func (d *named) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o namedOptions
	if err := d.desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	d.mu.Lock()
	inner := d.files[o.Filename]
	d.mu.Unlock()
	if inner == nil {
		return nil, driver.Errorf(fs.ErrNotExist, "no file %q", o.Filename)
	}
	r := *req
	r.Options = opts.Dict{}
	return inner.Open(ctx, &r)
}

// add makes a file of size bytes.
func (d *named) add(t testing.TB, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files[name] = d.make(f, size)
	return "named:" + name
}

// fixed hides Truncate and Sync.
type fixed struct{ caller.ReadWriterAt }

func harness(make func(f *os.File, size int64) driver.Driver) drivertest.Harness {
	d := newNamed(make)
	return drivertest.Harness{Driver: d, Make: func(t testing.TB, size int64) string { return d.add(t, size) }}
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, harness(func(f *os.File, size int64) driver.Driver { return caller.Writable(f, size) }))
}

func TestConformanceFixed(t *testing.T) {
	drivertest.Run(t, harness(func(f *os.File, size int64) driver.Driver { return caller.Writable(fixed{f}, size) }))
}
