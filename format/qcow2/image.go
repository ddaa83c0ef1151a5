package qcow2

import (
	"encoding/json"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/crypto/luks"
	"github.com/cowl-disk/cowl/format/qcow2/internal/bitmaps"
	"github.com/cowl-disk/cowl/format/qcow2/internal/codec"
	"github.com/cowl-disk/cowl/format/qcow2/internal/snaptable"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// geometry is what follows from the header. It changes only by Amend, with no
// request under way. Sizes are bytes.
type geometry struct {
	version      uint32
	clusterBits  uint32
	clusterSize  int64
	extended     bool // L2 entries have subcluster bitmaps
	l2EntrySize  int64
	l2Bits       uint32 // log2 of the entries of an L2 table
	subBits      uint32 // log2 of the subcluster size
	subSize      int64
	refOrder     uint32
	refBlockBits uint32 // log2 of the entries of a refcount block
	compression  uint8
}

func newGeometry(h *ondisk.Header) geometry {
	g := geometry{version: h.Version, clusterBits: h.ClusterBits, clusterSize: h.ClusterSize(), extended: h.ExtendedL2(),
		refOrder: h.RefcountOrder, compression: h.CompressionType}
	g.l2EntrySize = int64(ondisk.L2EntrySize(g.extended))
	g.l2Bits = g.clusterBits - uint32(bits.TrailingZeros64(uint64(g.l2EntrySize)))
	g.subBits = g.clusterBits
	if g.extended {
		g.subBits -= 5
	}
	g.subSize = 1 << g.subBits
	g.refBlockBits = g.clusterBits + 3 - g.refOrder
	return g
}

// l2Range is how much of the disk one L2 table maps.
func (g *geometry) l2Range() int64 { return 1 << (g.clusterBits + g.l2Bits) }

// l1Entries is the number of L1 entries that a disk of size bytes needs.
func (g *geometry) l1Entries(size int64) int64 {
	shift := g.clusterBits + g.l2Bits
	n := size >> shift
	if size&(1<<shift-1) != 0 {
		n++
	}
	return n
}

func (g *geometry) clusters(n int64) int64 {
	return n>>g.clusterBits + min(1, n&(g.clusterSize-1))
}

func (g *geometry) alignDown(n int64) int64 { return n &^ (g.clusterSize - 1) }
func (g *geometry) alignUp(n int64) int64   { return g.alignDown(n + g.clusterSize - 1) }

// image is an open image. The lock order is in the package documentation.
type image struct {
	geometry
	header
	tables

	name     string
	env      *driver.Env
	file     driver.Storage // metadata, and data unless external
	events   driver.Events  // raised on file
	data     driver.Storage // guest data: file, or the external data file
	external bool
	dataRaw  bool // the external data file is also a valid raw image
	writable bool
	access   driver.Access
	opt      openOptions
	overlap  overlapSet
	sizes    cacheSizes
	lazy     bool  // postpone refcounts behind the dirty bit
	budgeted int64 // bytes of tables that were counted against the budget

	size atomic.Int64 // of the disk as it is shown

	begun   atomic.Bool // the image has been marked as being written
	refused atomic.Bool // corruption was found: no more writes

	flushMu  sync.Mutex
	resizeMu sync.Mutex
	tableMu  sync.Mutex // L1 entries change with it held

	alloc allocator
	bm    *bitmaps.Set
	codec *codec.Codec

	encrypt  json.RawMessage // for Info
	crypto   *encryption     // nil: not encrypted, or opened without a key
	luks     *luks.Header    // nil: not encrypted, or not by LUKS
	secretID string          // of the key
	// cryptMethod is that of the header, which stays while the image is open: requests
	// look at it, and do not wait for writes of the header.
	cryptMethod uint32

	recurse   atomic.Int32 // result of metadata preallocation detection: 0 unknown, 1 no, 2 yes
	recurseMu sync.Mutex

	refRuns int // see maxRefRuns
}

// header is what the header of the image and its extensions say, and the snapshot
// table. hdrMu guards it and serialises writes of the header.
type header struct {
	hdrMu         sync.Mutex
	hdr           ondisk.Header
	exts          []ondisk.Extension // all but the end, in the order of the file
	backing       string
	backingGiven  bool // the user named a backing file, whatever the header says
	backingFormat string
	bitmapsExt    ondisk.BitmapsExtension // zero if there are none
	// bitmapsStale: the header names bitmaps that a program without knowledge of them
	// has made untrue.
	bitmapsStale bool
	// bitmapDamage is why there are no bitmaps although the header names some.
	bitmapDamage error
	snap         snaptable.Table
	// snapshotDamage is why snap is empty although the header names some.
	snapshotDamage error
}

// tables is the mapping of the active disk in memory. meta guards it.
type tables struct {
	meta    sync.RWMutex
	l1      clustertable.Root
	cache   *clustertable.Cache // L2 slices
	pend    *clustertable.Changes
	drops   []drop // references given up, not yet durable
	dropped int64  // bytes in drops
}

// span is a range of the file with what is there.
type span struct {
	off, end int64
	what     string
}
