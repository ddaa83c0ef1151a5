package caller

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// ReadWriterAt is storage that can be written. Both methods are called concurrently.
// WriteAt writes beyond the end only if there is Truncate as well; what is between
// the old end and the new bytes then reads as zeroes, as in a file.
//
// Two further methods are used where they are there:
//
//	Truncate(size int64) error // shrinks, or grows with zeroes
//	Sync() error               // makes durable what was written
//
// Without Truncate the size is fixed. Without Sync, flushing promises nothing.
type ReadWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

type (
	truncater interface{ Truncate(size int64) error }
	syncer    interface{ Sync() error }
)

type openOptions struct{}

var desc = driver.Desc{
	Name:        "caller",
	Kind:        driver.KindProtocol,
	Summary:     "Bytes that the calling program holds",
	OpenOptions: opts.SchemaOf(openOptions{}),
}

// ReaderAt makes read-only storage of the first size bytes of r. r is read concurrently,
// and must not end before size.
func ReaderAt(r io.ReaderAt, size int64) driver.Driver { return newObject(r, nil, size) }

// Writable makes storage of rw, which has size bytes now.
func Writable(rw ReadWriterAt, size int64) driver.Driver { return newObject(rw, rw, size) }

// FSFile makes read-only storage of a regular file that has ReadAt or Seek. The file
// stays the caller's: it is closed after the images on it. If it has Seek alone, one
// request is made at a time.
func FSFile(f fs.File) (driver.Driver, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, driver.Errorf(driver.ErrInvalid, "'%s' is not a regular file", st.Name())
	}
	switch r := f.(type) {
	case io.ReaderAt:
		return newObject(r, nil, st.Size()), nil
	case io.ReadSeeker:
		return newObject(&seeking{r: r}, nil, st.Size()), nil
	}
	return nil, driver.Errorf(driver.ErrUnsupported, "the file '%s' can neither be read at an offset nor seek", st.Name())
}

// seeking reads at offsets by seeking.
type seeking struct {
	mu sync.Mutex
	r  io.ReadSeeker
}

// ReadAt implements io.ReaderAt.
func (s *seeking) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.r.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(s.r, p)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

// object is a driver that opens one thing: what the caller has. Its nodes share it.
type object struct {
	r    io.ReaderAt
	w    io.WriterAt // nil: read-only
	size atomic.Int64
	// sizeMu: writes that may extend share it, setting the length holds it alone.
	sizeMu sync.RWMutex
}

func newObject(r io.ReaderAt, w io.WriterAt, size int64) *object {
	o := &object{r: r, w: w}
	o.size.Store(size)
	return o
}

// Desc implements driver.Driver.
func (*object) Desc() *driver.Desc { return &desc }

// Open implements driver.Driver.
func (o *object) Open(_ context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var options openOptions
	if err := desc.OpenOptions.Decode(req.Options, &options); err != nil {
		return nil, err
	}
	if o.size.Load() < 0 {
		return nil, driver.Errorf(driver.ErrInvalid, "the size of the storage is negative: %d", o.size.Load())
	}
	n := &node{object: o, write: req.Access.Write, noFlush: req.Cache.NoFlush}
	if n.write && o.w == nil {
		return nil, driver.Errorf(driver.ErrReadOnly, "the storage cannot be written: it was made of a reader")
	}
	if _, ok := o.w.(truncater); ok {
		return &growing{n}, nil
	}
	return n, nil
}

// identity tells one object from another.
func (o *object) identity() string { return fmt.Sprintf("caller:%p", o) }
