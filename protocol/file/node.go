package file

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/rangelock"
	"github.com/cowl-disk/cowl/internal/trace"
	"github.com/cowl-disk/cowl/qapi"
)

// reserveMin is the shortest write in bytes for which a reservation pays.
const reserveMin = 64 << 10

// node is an open file or device.
//
// Lock order: a range of ranges before sizeMu.
type node struct {
	f        *os.File
	fd       uintptr // of f, which stays open as long as the node
	name     string  // the file
	drv      string  // "file", "host_device" or "host_cdrom"
	device   bool
	write    bool
	borrowed *handle // not nil: f belongs to the caller of Handle
	cache    driver.Cache
	sector   int64 // logical block size of a device
	fsBlock  int64 // block size of the file system, for sharing blocks; 0: it cannot
	size     atomic.Int64
	sizeMu   sync.RWMutex // writes that extend: shared; setting the length: exclusive
	holes    holeCache
	features features
	reserve  atomic.Bool // large writes are preceded by a reservation

	// Direct I/O only.
	align  int64            // of offsets and lengths; 0 if not direct
	mem    int64            // of memory
	ranges rangelock.Locker // writes: shared; read-modify-write: exclusive

	locking string // the option
	lockMu  sync.Mutex
	held    locks

	flushMu  sync.Mutex
	flushErr error // the first failure, reported ever after
	// changes counts those made through this node. flushed is one more than there were when the last flush began
	// that is done: 0 before the first, which also covers what others wrote before.
	changes, flushed atomic.Uint64
}

// features remembers what the host refused to do, so as not to ask again.
type features struct {
	noZeroRange, noPunch, noFallocate, noZeroOut, noDiscard, noSeek atomic.Bool
}

var (
	_ driver.Storage    = (*node)(nil)
	_ driver.Resizer    = (*node)(nil)
	_ driver.ZeroWriter = (*node)(nil)
	_ driver.Discarder  = (*node)(nil)
	_ driver.Relocker   = (*node)(nil)
	_ driver.FileHolder = (*node)(nil)
	_ driver.Identifier = (*node)(nil)
)

func newNode(f *os.File, drv, name string, req *driver.OpenRequest) (*node, error) {
	n := &node{f: f, fd: f.Fd(), drv: drv, name: name, device: drv != fileDesc.Name,
		write: req.Access.Write, cache: req.Cache, sector: 1, fsBlock: fsBlockSize(f)}
	if n.device {
		n.sector = max(deviceSector(f), 1)
	}
	if err := n.updateSize(); err != nil {
		return nil, err
	}
	if req.Cache.Direct {
		n.align, n.mem = directAlign(f, n.device)
	}
	return n, n.checkLength()
}

// checkLength refuses files that have content but no length, as those of /proc are:
// they would be taken for empty disks.
func (n *node) checkLength() error {
	if n.device || n.Size() > 0 {
		return nil
	}
	b := bufpool.Get(int(max(n.align, 1)))
	defer bufpool.Put(b)
	// Errors are reported by the reads.
	if m, err := preadOnce(n.f, b, 0); err != nil || m == 0 {
		return nil
	}
	// Somebody may just be writing the file.
	if err := n.updateSize(); err != nil || n.Size() > 0 {
		return err
	}
	return driver.Errorf(driver.ErrUnsupported, "'%s' has content but a length of 0: copy it to a regular file first", n.name)
}

// updateSize asks the system for the length.
func (n *node) updateSize() error {
	size, err := fileSize(n.f, n.device)
	if err != nil {
		return sysErrorf(err, "could not get the size of '%s'", n.name)
	}
	n.size.Store(size)
	return nil
}

// grown notes that the file now reaches at least to end.
func (n *node) grown(end int64) {
	for {
		old := n.size.Load()
		if end <= old || n.size.CompareAndSwap(old, end) {
			return
		}
	}
}

// regrown finds out how far a write came that failed.
func (n *node) regrown() {
	if size, err := fileSize(n.f, n.device); err == nil {
		n.grown(size)
	}
}

// Size implements driver.Node: the length when the file was opened, as changed
// through this node since.
func (n *node) Size() int64 { return n.size.Load() }

// Limits implements driver.Node. Requests need no alignment; direct I/O is most
// efficient with whole blocks.
func (n *node) Limits() driver.Limits {
	l := driver.Limits{OptTransfer: n.align}
	if n.device {
		l.ZeroAlignment, l.DiscardAlignment = n.sector, n.sector
	}
	return l
}

// Traits implements driver.Node.
func (n *node) Traits() driver.Traits {
	return driver.Traits{FixedSize: n.device, ZeroInit: !n.device, ZeroOnGrow: !n.device}
}

// State implements driver.Stater: a file is neither dirty nor corrupt.
func (*node) State(context.Context) (*driver.State, error) { return &driver.State{}, nil }

// Info implements driver.Describer.
func (n *node) Info(context.Context) (*driver.Info, error) {
	return &driver.Info{Specific: &qapi.ImageInfoSpecific{Type: "file",
		Data: &qapi.InfoSpecificFile{ExtentSizeHint: extentSizeHint(n.f)}}}, nil
}

// Filename implements driver.Named.
func (n *node) Filename() string { return n.name }

// DiskUsage implements driver.SpaceTeller.
func (n *node) DiskUsage(context.Context) (int64, error) {
	st, err := n.f.Stat()
	if err != nil {
		return -1, sysErrorf(err, "could not stat file")
	}
	return allocated(st), nil
}

// File implements driver.FileHolder: nil for devices, and for direct I/O, which must
// not go through the page cache.
func (n *node) File() *os.File {
	if n.device || n.align != 0 {
		return nil
	}
	return n.f
}

// changed is called when a change of the file has been made, or has failed in part.
func (n *node) changed() {
	n.changes.Add(1)
	n.holes.forget()
}

// Flush implements driver.Node. Once it failed it fails for good: the system
// may have dropped what it could not write, and would claim success next time.
// With cache.no-flush, and where nothing was changed since the last flush, it does nothing.
func (n *node) Flush(ctx context.Context) error {
	trace.FileFlush.Log()
	if err := ctx.Err(); err != nil {
		return err
	}
	if n.cache.NoFlush || !n.write {
		return nil
	}
	n.flushMu.Lock()
	err := n.flushErr
	n.flushMu.Unlock()
	if err != nil {
		return err
	}
	// A change that ends from here on is for the next flush.
	covered := n.changes.Load() + 1
	if n.flushed.Load() == covered && n.borrowed == nil { // the caller of Handle may have written to its file
		return nil
	}
	sync := syncData(n.f)
	if errors.Is(sync, syscall.EINVAL) {
		// Character devices keep nothing back, and many know no flush.
		if st, e := n.f.Stat(); e == nil && st.Mode()&fs.ModeCharDevice != 0 {
			return nil
		}
	}
	if err = sysErrorf(sync, "could not flush '%s'", n.name); err == nil {
		n.flushed.Store(covered)
		return nil
	}
	n.flushMu.Lock()
	defer n.flushMu.Unlock()
	if n.align == 0 && n.flushErr == nil {
		n.flushErr = err
	}
	return err
}

// Close implements driver.Node. It does not flush, and it lets the image locks
// go.
func (n *node) Close(context.Context) error {
	n.lockMu.Lock()
	defer n.lockMu.Unlock()
	// A child process that is being started has the open file too until it
	// executes its program: closing ours would not be enough.
	unlockNode(n.f, n.held, locks{})
	n.held = locks{}
	if n.borrowed != nil {
		n.borrowed.open.Store(false)
		return nil
	}
	return sysErrorf(n.f.Close(), "could not close '%s'", n.name)
}

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	trace.FilePreadv.Log(off, int64(len(p)))
	if err := n.check(ctx, off, int64(len(p))); err != nil {
		return 0, err
	}
	if n.align != 0 {
		return n.readDirect(p, off)
	}
	m, err := n.f.ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = sysErrorf(err, "could not read '%s' at offset %d", n.name, off)
	}
	return m, err
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	trace.FilePwritev.Log(off, int64(len(p)))
	if err := n.checkWrite(ctx, off, int64(len(p))); err != nil {
		return 0, err
	}
	defer n.changed()
	if n.align != 0 {
		return n.writeDirect(ctx, p, off)
	}
	if off+int64(len(p)) > n.Size() {
		n.sizeMu.RLock()
		defer n.sizeMu.RUnlock()
	}
	if len(p) >= reserveMin && n.reserve.Load() {
		n.reserveRoom(off, int64(len(p)))
	}
	m, err := n.f.WriteAt(p, off)
	n.grown(off + int64(m))
	if err != nil {
		n.regrown()
		err = sysErrorf(err, "could not write '%s' at offset %d", n.name, off)
	}
	return m, err
}

// check refuses impossible ranges.
func (n *node) check(ctx context.Context, off, length int64) error {
	if off < 0 || length < 0 || off+length < off {
		return driver.Errorf(driver.ErrInvalid, "impossible range: %d bytes at %d", length, off)
	}
	return ctx.Err()
}

func (n *node) checkWrite(ctx context.Context, off, length int64) error {
	if err := n.check(ctx, off, length); err != nil {
		return err
	}
	if !n.write {
		return driver.Errorf(driver.ErrReadOnly, "'%s' is open for reading", n.name)
	}
	if n.device && off+length > n.Size() {
		return driver.Errorf(errors.Join(driver.ErrRange, driver.ErrNoSpace), "%d bytes at %d are beyond the end of '%s'", length, off, n.name)
	}
	return nil
}

// statFileSize is the length by plain means.
func statFileSize(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if st.Mode()&fs.ModeDevice == 0 {
		return st.Size(), nil
	}
	return f.Seek(0, io.SeekEnd)
}
