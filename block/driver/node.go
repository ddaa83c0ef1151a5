package driver

import (
	"context"
	"os"
	"time"

	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/qapi"
)

// Node is anything open that has bytes.
type Node interface {
	// Size is the length in bytes: of the guest disk for a format, of the
	// object for a protocol.
	Size() int64
	// Limits are constant while the node is open.
	Limits() Limits
	// Traits say what sort of node this is. They cost nothing to ask for.
	Traits() Traits
	// Flush makes everything written before the call durable.
	Flush(ctx context.Context) error
	// Close flushes metadata, releases everything and reports what could not
	// be written. Children stay open: they belong to the block layer. A node is
	// not used after Close, whatever it returned.
	Close(ctx context.Context) error
}

// Limits tell the block layer how a node wants to be used.
type Limits struct {
	// RequestAlignment is what offsets and lengths given to the node must be a
	// multiple of; 0 and 1 mean no requirement. Drivers that can do better by
	// themselves should: file does, for O_DIRECT.
	RequestAlignment int64
	// ClusterSize is the unit of allocation, 0 if there is none.
	ClusterSize int64
	// ZeroAlignment and DiscardAlignment are the granularity of WriteZeroes and
	// Discard; 0 and 1 mean any.
	ZeroAlignment, DiscardAlignment int64
	// OptTransfer is the smallest request that is efficient, 0 if all are.
	OptTransfer int64
	// MaxTransfer bounds a single read or write, 0 if there is no bound.
	MaxTransfer int64
	// MaxZero and MaxDiscard bound a single WriteZeroes and Discard, 0 if there is no
	// bound.
	MaxZero, MaxDiscard int64
}

// Traits say what sort of node something is, whatever it holds.
type Traits struct {
	// FixedSize: the node cannot grow (a device).
	FixedSize bool
	// ZeroInit: a newly created object of the current size reads as zeroes.
	ZeroInit bool
	// ZeroOnGrow: bytes that appear when the node is grown, or written beyond
	// its end, read as zeroes. Protocols only.
	ZeroOnGrow bool
	// Remote: requests wait for another program, often on another machine, so that many writes under way at
	// once are faster than a few. Protocols only.
	Remote bool
	// ObjectZeroes: what holds data is made to read as zeroes object by object, so that to clear a whole disk takes long
	// where it is full, and to write it anew longer. Protocols only.
	ObjectZeroes bool
	// Encrypted: the guest's data is encrypted.
	Encrypted bool
	// NoCompression: although the format has compressed clusters, this image takes
	// none (it is encrypted).
	NoCompression bool
	// OnlyCompressed: the image takes compressed clusters only, each of them once.
	OnlyCompressed bool
}

// Stater is implemented by nodes that know what state their object is in.
type Stater interface {
	// State returns nil if nothing is known after all: a node that passes a child
	// through knows what the child knows.
	State(ctx context.Context) (*State, error)
}

// State is what changes with the use of an image, apart from its contents.
type State struct {
	Dirty   bool // in use, or not closed in order
	Corrupt bool // marked as such
	Backing *BackingRef
}

// Describer is implemented by nodes of which "info" has more to tell than their
// size and state.
type Describer interface {
	Info(ctx context.Context) (*Info, error)
}

// Info is what "info" prints of a node, beside its size, traits and state.
type Info struct {
	// ClusterSize is printed as cluster_size; 0: nothing is printed.
	ClusterSize int64
	Compressed  bool // the image holds (or can only hold) compressed clusters
	// VMStateOffset is where on the disk the state of a virtual machine would begin, which
	// snapshots keep; 0 if the format has no room for it.
	VMStateOffset int64
	// Specific is printed as "Format specific information"; nil: nothing is.
	Specific *qapi.ImageInfoSpecific
}

// Named is implemented by protocols and filters that have a name of their own for
// what they opened.
type Named interface {
	// Filename is the name, "" if there is none that tells everything.
	Filename() string
}

// SpaceTeller is implemented by protocols that know the room an object takes.
type SpaceTeller interface {
	// DiskUsage is the room in bytes, -1 where it is unknown.
	DiskUsage(ctx context.Context) (int64, error)
}

// BackingRef is what an image says of its backing file.
type BackingRef struct {
	Filename string // as stored, relative to the directory of the image that names it
	Format   string // "" if the image does not say
	// Ending is for ParentFinders: the image knows no name of its backing file, and
	// Filename is the one that it would usually have. It is looked for among the files
	// beside the image, and in the folder above, whose names end so (".vdi").
	Ending string
}

// Storage is a node that holds bytes itself.
type Storage interface {
	Node
	// ReadAt fills p from offset off. Beyond the end it returns the bytes there
	// are and io.EOF. Short reads without an error do not happen.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	// WriteAt writes p at offset off, growing the node where it can.
	WriteAt(ctx context.Context, p []byte, off int64) (int, error)
	// Map tells what is at off: ExtentData or ExtentZero, for at most n bytes
	// and at least one; ExtentEOF at or beyond the end. ExtentUnallocated is for
	// nodes that show something else in the place of their contents (a dirty bitmap).
	Map(ctx context.Context, off, n int64) (Extent, error)
}

// Format is a node whose bytes are in its children.
type Format interface {
	Node
	// Map tells where the guest bytes at off are: one extent of at most n bytes
	// and at least one, covering as many contiguous clusters as it can.
	// ExtentEOF at or beyond the end. 0 <= off, 0 < n.
	Map(ctx context.Context, off, n int64) (Extent, error)
	// ReadEncoded reads guest bytes that Map called ExtentEncoded: it fills p
	// from guest offset off, all within one such extent.
	ReadEncoded(ctx context.Context, p []byte, off int64) error
}

// ExtentKind says what a range of a node is.
type ExtentKind uint8

// The kinds of extent.
const (
	// ExtentEOF: at or beyond the end of the node. Length is zero.
	ExtentEOF ExtentKind = iota
	// ExtentData: the bytes are in Child at HostOffset (for Storage: here).
	ExtentData
	// ExtentZero: reads as zeroes, whatever the backing file holds.
	ExtentZero
	// ExtentUnallocated: look in the backing file; zeroes where there is none.
	ExtentUnallocated
	// ExtentEncoded: compressed, or otherwise not readable as stored; ask
	// ReadEncoded.
	ExtentEncoded
)

// Extent says where the bytes of a range are.
type Extent struct {
	Length     int64
	Kind       ExtentKind
	Child      Storage // where Data is; nil in answers of a Storage
	HostOffset int64   // valid if HasOffset
	HasOffset  bool    // Data, and zero or unallocated ranges that have room on disk
	Compressed bool    // Encoded: by compression
	// Zero: Data that reads as zeroes, although there is room for it.
	Zero bool
	// Hole: Data without disk space, although it is not known to be zeroes.
	Hole bool
	// Recurse asks the block layer to look for holes of Child inside a Data
	// extent when it reports block status (raw images, preallocated metadata).
	Recurse bool
}

// Allocator is a Format that can be written.
type Allocator interface {
	Format
	// Allocate finds room for a write of n bytes at off and answers for a
	// prefix of it. Where a write to the same cluster is still pending it waits
	// for its Commit or Abort, or for ctx.
	Allocate(ctx context.Context, off, n int64) (WriteTarget, error)
}

// WriteTarget says where to write the guest range that starts at the offset
// given to Allocate.
type WriteTarget struct {
	Length     int64   // guest bytes that may be written, 0 < Length <= n
	Child      Storage // where
	HostOffset int64   // position in Child of the first guest byte
	// Head and Tail are the copy-on-write edges: the bytes before and after
	// the range that must be filled with what the guest sees there now (read through
	// the old mapping, which stays in force until Commit), at the same distance
	// in Child, before Commit. Tail may reach beyond the end of the disk: the
	// rest is zeroes.
	Head, Tail int64
	// ZeroFilled: the host range, edges included, is known to read as zeroes,
	// so that edges which are zero need not be written.
	ZeroFilled bool
	// Pending is nil if the range was already allocated to the guest: nothing
	// is left to do after writing. Otherwise exactly one of its methods must be
	// called.
	Pending Pending
}

// Pending is an allocation whose metadata is not yet linked.
type Pending interface {
	// Commit makes the mapping visible. On error the allocation is given back.
	Commit(ctx context.Context) error
	// Abort gives the room back.
	Abort(ctx context.Context)
}

// ZeroFlags modify WriteZeroes.
type ZeroFlags uint8

// The flags of WriteZeroes.
const (
	// ZeroMayUnmap: the range may lose its room on disk.
	ZeroMayUnmap ZeroFlags = 1 << iota
	// ZeroNoFallback: fail with ErrUnsupported rather than be slow.
	ZeroNoFallback
)

// ZeroWriter is implemented by nodes that can write zeroes without moving
// them. off and n are multiples of Limits.ZeroAlignment (n may end at the end
// of the disk). ErrUnsupported makes the block layer write zeroes as data.
type ZeroWriter interface {
	WriteZeroes(ctx context.Context, off, n int64, flags ZeroFlags) error
}

// UnwrittenZeroer is a ZeroWriter whose units may be zeroed for a request that covers a
// part of one, where the rest of it reads as zeroes anyway.
type UnwrittenZeroer interface {
	ZeroWriter
	// ZeroUnwritten makes the unit of Limits.ZeroAlignment in which the range is read as
	// zeroes, as WriteZeroes does. The caller has seen that the rest of it does already. If
	// the unit holds data, perhaps by a write since then, it is not changed: ErrUnsupported.
	ZeroUnwritten(ctx context.Context, off, n int64, flags ZeroFlags) error
}

// Discarder is implemented by nodes that can give room back. off and n are
// multiples of Limits.DiscardAlignment (n may end at the end of the disk); nodes that pass
// a child through get the parts of such units as well, in requests of their own.
// What a discarded range reads as afterwards is as Map says. ErrUnsupported
// makes the block layer do nothing.
type Discarder interface {
	Discard(ctx context.Context, off, n int64) error
}

// Prealloc is a preallocation mode.
type Prealloc string

// The preallocation modes.
const (
	PreallocOff      Prealloc = "off"
	PreallocMetadata Prealloc = "metadata"
	PreallocFalloc   Prealloc = "falloc"
	PreallocFull     Prealloc = "full"
)

// Resizer is implemented by nodes whose size can change. New bytes read as
// zeroes, but for formats that encrypt all there is: there they read as what zeroes
// decrypt to.
type Resizer interface {
	Resize(ctx context.Context, size int64, opt ResizeOptions) error
}

// ResizeOptions modify Resize. The zero value grows or shrinks without
// preallocation.
type ResizeOptions struct {
	Prealloc Prealloc // "" is PreallocOff
	// Exact: fail rather than round the size up.
	Exact bool
	// HideBacking: up to this offset the backing file has bytes that must not
	// show in what the disk grows by. A format that can makes whole clusters
	// there read as zeroes before the new size is on disk; the block layer zeroes
	// what is left.
	HideBacking int64
}

// Compressor is a Format that can store compressed clusters. Encoding and
// storing are two steps, so that callers can encode in parallel and store in order.
type Compressor interface {
	Format
	// Encode compresses one cluster (ClusterSize bytes; the last one of a disk
	// is padded with zeroes by the caller) and appends the result to dst. ok is
	// false if the result would not be smaller: then write plain data.
	Encode(dst, cluster []byte) (enc []byte, ok bool, err error)
	// WriteEncoded stores what Encode returned for the cluster at guest offset
	// off, which must not be allocated.
	WriteEncoded(ctx context.Context, off int64, enc []byte) error
}

// CheckFix says what Check may repair.
type CheckFix struct{ Leaks, Errors bool }

// Checker is implemented by formats that can verify their metadata.
type Checker interface {
	// Check verifies the image and repairs what fix allows. Messages for the
	// user go to report, one line each, in the order found; progress may be nil.
	Check(ctx context.Context, fix CheckFix, report func(line string), progress func(done, total int64)) (*CheckResult, error)
}

// CheckResult counts what Check found.
type CheckResult struct {
	Corruptions, Leaks           int64 // that remain
	CorruptionsFixed, LeaksFixed int64
	CheckErrors                  int64 // could not be checked
	// ImageEndOffset is the end of the last cluster in use, 0 if unknown.
	ImageEndOffset int64
	// Cluster statistics, of the guest disk. Total is 0 where the format has none.
	TotalClusters, AllocatedClusters, FragmentedClusters, CompressedClusters int64
}

// BackingChanger is implemented by formats that can record another backing
// file. An empty filename removes it.
type BackingChanger interface {
	ChangeBacking(ctx context.Context, ref BackingRef) error
}

// ParentChecker is implemented by formats whose images identify the image that their backing
// file is, whatever its name.
type ParentChecker interface {
	// CheckParent refuses a parent that is another one, or remembers that it is, to
	// refuse the requests that the parent would answer.
	CheckParent(ctx context.Context, parent Node) error
}

// ParentFinder is implemented by formats whose images name their backing file by an
// identifier only: see BackingRef.Ending.
type ParentFinder interface {
	// IsParent says whether a file that begins with head, at most ProbeBytes bytes, is the
	// backing file.
	IsParent(head []byte) bool
}

// Neighbours is implemented by protocols whose objects lie in folders.
type Neighbours interface {
	// Neighbours returns the names of the files in a folder, which is given relative to
	// the one that the object lies in.
	Neighbours(dir string) ([]string, error)
}

// Emptier is implemented by formats with backing files that can give up all
// their contents at once, so that the whole disk is unallocated.
type Emptier interface {
	// MakeEmpty drops every mapping. The caller makes sure that the backing file
	// shows the same contents already, durably, and that no request is under way:
	// a crash may leave any part of the mappings. ErrUnsupported leaves the image
	// as it is.
	MakeEmpty(ctx context.Context) error
}

// Amender is implemented by formats whose features can be changed in place. Its
// driver declares AmendOptions.
type Amender interface {
	// Amend changes what req.Options say. A crash at any time leaves an image
	// with the contents it had. No other request may be under way.
	Amend(ctx context.Context, req *AmendRequest) error
}

// AmendRequest says what to change.
type AmendRequest struct {
	Options opts.Dict // of the AmendOptions schema
	// Force allows what may make the image inaccessible for good: erasing the last
	// key slot, overwriting one that is in use.
	Force bool
	// Resize changes the size of the disk, through the block layer.
	Resize func(ctx context.Context, size int64) error
	// Progress takes how much is done of how much, in any unit. May be nil.
	Progress func(done, total int64)
}

// SnapshotOpener is implemented by formats with internal snapshots. OpenSnapshot
// switches a node that was opened read-only to show the disk as it was then.
// idOrName is matched against ids first, then names.
type SnapshotOpener interface {
	OpenSnapshot(ctx context.Context, idOrName string) error
}

// Snapshotter is implemented by formats whose images hold internal snapshots. The caller
// makes sure that no change of the disk is under way
// during a call, or begins; reads may go on. A call that fails has changed
// nothing that a reader of the disk or of a snapshot could see, unless its error
// says otherwise. If a crash interrupts a call, the disk and the
// snapshots read as before the call or as after it.
type Snapshotter interface {
	// Snapshots lists them, in the order of the image. The list is the caller's.
	Snapshots(ctx context.Context) ([]qapi.SnapshotInfo, error)
	// CreateSnapshot keeps the disk as it is now and returns the new snapshot's
	// id, which no other has. Names need not be unique.
	CreateSnapshot(ctx context.Context, req SnapshotRequest) (id string, err error)
	// ApplySnapshot makes the disk what it was when the snapshot was taken, its
	// size included. The snapshot stays. idOrName is matched against ids first,
	// then names. ErrBitmaps: the image has bitmaps that would no longer be true.
	ApplySnapshot(ctx context.Context, idOrName string) error
	// DeleteSnapshot removes the first snapshot that has both the id and the name.
	// If the snapshot is gone but its room could not all be given back, that is an
	// error too.
	DeleteSnapshot(ctx context.Context, id, name string) error
}

// VMStateKeeper is implemented by formats whose images hold the state of a virtual machine
// beside the disk, which snapshots keep together with it. It has no size: what was never
// written reads as zeroes. Positions count from its start. A change of the size of the disk
// ends it.
type VMStateKeeper interface {
	ReadVMState(ctx context.Context, p []byte, pos int64) error
	WriteVMState(ctx context.Context, p []byte, pos int64) error
}

// SnapshotRequest says what a new snapshot is to be called.
type SnapshotRequest struct {
	Name string    // at most MaxSnapshotName bytes
	Date time.Time // when it was taken
}

// MaxSnapshotName is the longest name in bytes that a snapshot may be given.
const MaxSnapshotName = 255

// CopyMode says which ways of copying CopyFrom may use.
type CopyMode uint8

// The copy modes.
const (
	CopyReflink CopyMode = 1 << iota // share blocks, or fail
	CopyOffload                      // copy_file_range
)

// StatusChecker is a filter that can refuse block status requests, although the
// node that it filters answers them.
type StatusChecker interface {
	CheckStatus(off, n int64) error
}

// RangeCopier is implemented by Storage that can copy from another without
// moving the bytes through this process. It returns how much it copied; 0 and
// ErrUnsupported if the pair cannot do it. With n 0 nothing is copied: no error
// means that it may be able to.
type RangeCopier interface {
	CopyFrom(ctx context.Context, src Storage, srcOff, dstOff, n int64, mode CopyMode) (int64, error)
}

// WritebackStarter is implemented by Storage whose writes the system caches.
// StartWriteback asks it to begin now to write them to the device, for
// callers that flush later and would wait longer then. It promises nothing, may
// take a while, and may be called concurrently with everything but Close.
type WritebackStarter interface{ StartWriteback() }

// NewDataExpecter is implemented by Storage that can prepare for large writes that
// go mostly to places where it holds no data yet. ExpectNewData tells that such
// writes begin, for as long as the node is open. It changes neither contents nor
// which parts of an object take room, may be called concurrently with everything but
// Close, and promises nothing.
type NewDataExpecter interface{ ExpectNewData() }

// FileHolder is implemented by Storage whose bytes are those of a file of the
// system, at the same offsets. File returns it, open as long as the node is, for
// reading at offsets beside the node's methods; nil if it must not be read so.
type FileHolder interface{ File() *os.File }

// Viewer is implemented by Storage whose bytes can be looked at where the system keeps
// them, without a copy. View calls look with the length bytes at off, which look must
// neither change nor keep, and reports whether look saw them. If it did not, because
// there is no such view or the bytes went away meanwhile, look may have run in part and
// the bytes are to be read: that gives the error if there is one.
type Viewer interface {
	View(ctx context.Context, off, length int64, look func(p []byte)) bool
}

// Identifier is implemented by Storage on this machine. Identity returns the
// same text for two nodes of one object, whatever names they were opened by, and ""
// if that is not known.
type Identifier interface{ Identity() string }

// Relocker is implemented by protocols with image locks: Relock changes the
// permissions that an open node holds to those of access.
type Relocker interface {
	Relock(ctx context.Context, access Access) error
}

// Wrapper is implemented by Storage that wraps another one.
type Wrapper interface{ Unwrap() Storage }

// Unwrap follows wrappers down to the Storage that holds the bytes.
func Unwrap(s Storage) Storage {
	for {
		w, ok := s.(Wrapper)
		if !ok {
			return s
		}
		u := w.Unwrap()
		if u == nil {
			return s
		}
		s = u
	}
}
