package block

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/rangelock"
	"github.com/cowl-disk/cowl/internal/trace"
)

// Image is an open node with its children.
type Image struct {
	reg      *Registry
	name     string // exact file name, or json:{…}
	drv      driver.Driver
	desc     *driver.Desc
	node     driver.Node
	limits   driver.Limits
	env      *driver.Env
	guard    driver.Guard
	writable bool
	access   driver.Access
	unmap    bool // discard requests reach the driver
	detect   detectZeroes
	cache    driver.Cache
	// probedRaw: the format raw was guessed; what a guest writes to its start
	// must not turn it into another format.
	probedRaw bool

	// Exactly one of storage and format is set. The others are what the node
	// can do, nil if it cannot.
	storage    driver.Storage
	format     driver.Format
	allocator  driver.Allocator
	zeroer     driver.ZeroWriter
	discarder  driver.Discarder
	compressor driver.Compressor

	children []Child // all but the backing file, in order of opening
	backing  *Image
	// filtered is the child that a filter passes through, nil for other nodes and
	// for filters with an answer of their own.
	filtered *Image
	events   driver.Events // of the "file" child of a format

	// ranges orders writes to units that they cover in part: see align.go.
	ranges rangelock.Locker
	// start is held by changes of the start of a disk that was probed as raw, from
	// the look at what it becomes until it is so.
	start  sync.Mutex
	serial *sync.Mutex // held around every call of a driver that asks for it
	// changing is shared by the requests that change a format's disk, for as long
	// as they take, and held alone by snapshot operations. It is taken first, by
	// exported methods only: a request that took it twice could wait for itself.
	changing sync.RWMutex
	closed   atomic.Bool
}

// Child is a node that an image has opened, with its role.
type Child struct {
	Role  string // "file", "data-file", "extents.N"
	Image *Image
}

type detectZeroes uint8

const (
	detectOff detectZeroes = iota
	detectOn
	detectUnmap
)

// Filename returns the name that opens this image again: a file name where one
// is enough, else json:{…}.
func (img *Image) Filename() string { return img.name }

// Format returns the driver's name.
func (img *Image) Format() string { return img.desc.Name }

// Writable says whether the image is open for writing.
func (img *Image) Writable() bool { return img.writable }

// Backing returns the backing image, nil if there is none or it was not opened. A
// filter has that of its child.
func (img *Image) Backing() *Image { return img.skipFilters().backing }

// skipFilters returns the first image below that is not a filter: the one that
// answers what the contents are and where they are stored.
func (img *Image) skipFilters() *Image {
	for img.filtered != nil {
		img = img.filtered
	}
	return img
}

// Ability returns the node of img, or of the image that it filters, as a T: the one
// way to find an optional interface of a driver. ok is false if there is none.
func Ability[T any](img *Image) (t T, ok bool) {
	t, _, ok = ability[T](img)
	return t, ok
}

// ability is Ability; it also returns the image that has the node.
func ability[T any](img *Image) (t T, at *Image, ok bool) {
	for at = img; ; at = at.filtered {
		if t, ok = at.node.(T); ok || at.filtered == nil {
			return t, at, ok
		}
	}
}

// EventSink makes Image a driver.EventSource: events pass filters and raw images.
func (img *Image) EventSink() driver.EventSink {
	for img != nil {
		if s, ok := img.node.(driver.EventSink); ok {
			return s
		}
		img = img.Tree().PassedThrough()
	}
	return nil
}

// Size returns the size of the disk in bytes.
func (img *Image) Size() int64 { return img.node.Size() }

// CacheMode returns how the image was opened.
func (img *Image) CacheMode() driver.Cache { return img.cache }

// Limits returns the limits of the node.
func (img *Image) Limits() driver.Limits { return img.limits }

// Info describes the node.
func (img *Image) Info(ctx context.Context) (*driver.Info, error) {
	if d, ok := img.node.(driver.Describer); ok {
		return d.Info(ctx)
	}
	return &driver.Info{}, nil
}

// Traits say what sort of node the image is.
func (img *Image) Traits() driver.Traits { return img.node.Traits() }

// State tells whether the image is dirty or corrupt and what it names as its backing
// file; nil if nothing of that is known.
func (img *Image) State(ctx context.Context) (*driver.State, error) {
	if s, ok := img.node.(driver.Stater); ok {
		return s.State(ctx)
	}
	return nil, nil
}

// backingRef is what the image itself names as its backing file, nil if it names none.
func (img *Image) backingRef(ctx context.Context) (*driver.BackingRef, error) {
	s, err := img.State(ctx)
	if err != nil || s == nil || s.Backing == nil || s.Backing.Filename == "" {
		return nil, err
	}
	return s.Backing, nil
}

// DiskUsage is the room in bytes that the object of a protocol takes, -1 if it is
// unknown.
func (img *Image) DiskUsage(ctx context.Context) (int64, error) {
	return driver.DiskUsage(ctx, img.node)
}

// Unwrap returns the storage behind the image, nil if it is a format.
func (img *Image) Unwrap() driver.Storage {
	if img.storage == nil {
		return nil
	}
	return img.storage
}

func (img *Image) lock() {
	if img.serial != nil {
		img.serial.Lock()
	}
}

func (img *Image) unlock() {
	if img.serial != nil {
		img.serial.Unlock()
	}
}

func (img *Image) fail(op string, off int64, err error) error {
	if err == nil {
		return nil
	}
	var io *IOError
	if errors.As(err, &io) || errors.Is(err, context.Canceled) {
		return err
	}
	return &IOError{Op: op, Image: img.name, Offset: off, Err: err}
}

// bounds checks a request against the size of the image.
func (img *Image) bounds(op string, off, n int64) error {
	if off < 0 || n < 0 || off > img.Size()-n {
		return img.fail(op, off, driver.Errorf(driver.ErrRange, "%d bytes do not fit into an image of %d", n, img.Size()))
	}
	return nil
}

// open refuses requests to an image that is closed.
func (img *Image) open(op string, off int64) error {
	if img.closed.Load() {
		return img.fail(op, off, fs.ErrClosed)
	}
	return nil
}

func (img *Image) checkWritable(op string, off int64) error {
	if err := img.open(op, off); err != nil {
		return err
	}
	if !img.writable {
		return img.fail(op, off, driver.Errorf(driver.ErrReadOnly, "the image is open read-only"))
	}
	return nil
}

// Flush makes everything written durable, as the cache mode allows.
func (img *Image) Flush(ctx context.Context) error {
	trace.BdrvCoFlush.Log()
	if err := img.open("flush", -1); err != nil {
		return err
	}
	return img.flush(ctx)
}

func (img *Image) flush(ctx context.Context) error {
	if !img.writable {
		return nil
	}
	img.lock()
	defer img.unlock()
	return img.fail("flush", -1, img.node.Flush(ctx))
}

// Close flushes, and closes the image and all its children. It goes on to the
// end whatever fails, and reports the first failure: then what was written
// since the last Flush may be lost. No request may be under way; requests after
// Close fail with fs.ErrClosed.
func (img *Image) Close(ctx context.Context) error {
	if img.closed.Swap(true) {
		return nil
	}
	err := img.flush(ctx)
	if e := img.node.Close(ctx); err == nil {
		err = img.fail("close", -1, e)
	}
	for i := len(img.children) - 1; i >= 0; i-- {
		if e := img.children[i].Image.Close(ctx); err == nil {
			err = e
		}
	}
	if img.backing != nil {
		if e := img.backing.Close(ctx); err == nil {
			err = e
		}
	}
	if img.env != nil && img.env.Budget != nil {
		img.env.Budget.RemoveNode()
	}
	return err
}

// ReaderAt returns the disk as an io.ReaderAt that works under ctx.
func (img *Image) ReaderAt(ctx context.Context) io.ReaderAt { return readerAt{ctx, img} }

// WriterAt returns the disk as an io.WriterAt that works under ctx.
func (img *Image) WriterAt(ctx context.Context) io.WriterAt { return readerAt{ctx, img} }

// Reader returns the whole disk as an io.ReadSeeker that works under ctx.
func (img *Image) Reader(ctx context.Context) *io.SectionReader {
	return io.NewSectionReader(readerAt{ctx, img}, 0, img.Size())
}

type readerAt struct {
	ctx context.Context
	img *Image
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error)  { return r.img.ReadAt(r.ctx, p, off) }
func (r readerAt) WriteAt(p []byte, off int64) (int, error) { return r.img.WriteAt(r.ctx, p, off) }
