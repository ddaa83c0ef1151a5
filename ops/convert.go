package ops

import (
	"cmp"
	"context"
	"errors"
	"hash"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/resources"
)

// ReflinkMode says whether a conversion may share blocks of the source.
type ReflinkMode int

// The reflink modes.
const (
	ReflinkAuto   ReflinkMode = iota // where the file system can
	ReflinkAlways                    // or fail
	ReflinkNever
)

// DefaultSparse is how many zero bytes in a row become a hole by default.
const DefaultSparse = 4096

// ConvertJob says what to copy where.
type ConvertJob struct {
	// Sources are read one after the other, as one disk.
	Sources []*block.Image
	// Target is open for writing and has its final size, which may differ from
	// that of the sources: a smaller one is an error, the rest of a larger one is
	// left as it is.
	Target *block.Image
	// TargetBase is the backing image of the target if what the top layer of the
	// source does not allocate is to be read from it; nil: copy all.
	TargetBase *block.Image
	// TargetNew: the target was made for this job, so that it reads as zeroes
	// behind the end of TargetBase.
	TargetNew bool
	// Compress writes compressed clusters.
	Compress bool
	// Sparse is how many zero bytes in a row become a hole; 0 turns the search
	// for zeroes off and writes every byte, holes of the source too.
	Sparse int64
	// TargetZero: the target reads as zeroes now.
	TargetZero bool
	// ReaderSize is that of CopyJob, for ConvertFromReader.
	ReaderSize int64
	// Workers bounds the requests in flight; 0 means a default.
	Workers int
	// OutOfOrder allows clusters of the target to be allocated in any order.
	OutOfOrder bool
	// CopyRange lets the system copy (copy_file_range), without a search for zeroes.
	CopyRange bool
	Reflink   ReflinkMode
	// RateLimit is in bytes per second, 0 for none.
	RateLimit int64
	// Salvage writes zeroes for what cannot be read, and warns.
	Salvage bool
	// Checksum, if not nil, takes the bytes of the disk in order.
	Checksum hash.Hash
	Progress ProgressFunc
	// ProgressByPosition and Salvaged: see CopyJob.
	ProgressByPosition bool
	Salvaged           func(off int64, err error)
	Warn               func(string)
}

// ConvertResult counts the bytes of the disk by what was done with them.
type ConvertResult struct {
	Copied    int64 // written as data
	Zero      int64 // zeroes or holes
	Reflinked int64 // shared with the source or copied by the system
	Skipped   int64 // read from the backing file of the target
}

// chunkSize is how much a worker copies at a time: large enough that the calls
// cost little, small enough to stay in the processor's cache between reading and writing.
const chunkSize = 1 << 20

// Convert copies the contents of the sources to the target. When it fails the
// target is incomplete. It does not flush or close the target.
func Convert(ctx context.Context, job ConvertJob) (ConvertResult, error) {
	if len(job.Sources) == 0 || job.Target == nil {
		return ConvertResult{}, driver.Errorf(driver.ErrInvalid, "ConvertJob: Sources and Target must be set")
	}
	if err := checkTargetNotSource(job.Target, job.Sources); err != nil {
		return ConvertResult{}, err
	}
	src := newConcat(job.Sources)
	if src.size > job.Target.Size() {
		return ConvertResult{}, driver.Errorf(driver.ErrRange, "the target has %d bytes, the source %d", job.Target.Size(), src.size)
	}
	job.Compress = job.Compress || job.Target.Traits().OnlyCompressed
	if job.Compress && !job.Target.CanCompress() {
		return ConvertResult{}, driver.Errorf(driver.ErrUnsupported, "compression not supported for this file format")
	}
	c := newConverter(ctx, job, src)
	if job.TargetZero {
		if err := checkCanBeZero(ctx, job.Target); err != nil {
			return ConvertResult{}, err
		}
	}
	if !job.TargetZero && job.TargetBase == nil && job.Sparse > 0 {
		if err := c.clearTarget(ctx); err != nil {
			return ConvertResult{}, err
		}
	}
	if job.TargetZero || c.zero {
		job.Target.Transfer().ExpectNewData()
	}
	return c.run(ctx)
}

// converter is the state of one conversion.
type converter struct {
	job   ConvertJob
	src   *concat
	limit *rateLimit
	unit  int64 // granularity of the search for zeroes
	chunk int64
	zero  bool // the target reads as zeroes where nothing was written
	known lastData
	// remote: what is written goes to another program.
	remote bool

	write, hash turns
	encoded     bool        // reading the source means decoding
	writing     *sync.Mutex // nil: writes to the target may run side by side
	plain       bool        // bytes are only moved, between files that go through the page cache
	noReflink   atomic.Bool
	canShare    atomic.Bool // a copy by the system has been made
	firstShare  sync.Mutex  // held by the worker that tries first
	meter       *meter
	copiedOnly  bool // done counts what is copied, not positions

	copied, zeroed, reflinked, skipped atomic.Int64
}

// newConverter looks at what is to be copied, and into what.
func newConverter(ctx context.Context, job ConvertJob, src *concat) *converter {
	c := &converter{job: job, src: src, limit: newRateLimit(job.RateLimit)}
	if job.Warn == nil {
		c.job.Warn = func(string) {}
	}
	if job.Salvaged == nil {
		c.job.Salvaged = salvaged(c.job.Warn)
	}
	c.remote = job.Target.Tree().Protocol().Traits().Remote
	c.job.Salvaged = oneAtATime(c.job.Salvaged)
	c.unit, c.chunk = c.granularity()
	c.encoded = c.looksEncoded(ctx)
	if oneWriter(ctx, job.Target) {
		if c.encoded {
			c.writing = &sync.Mutex{}
		}
		c.plain = !c.encoded && !slices.ContainsFunc(append(slices.Clone(job.Sources), job.Target), takesTime)
	}
	return c
}

// granularity sets the unit in which data and zeroes are distinguished, and the
// size of a chunk.
func (c *converter) granularity() (unit, chunk int64) {
	unit, chunk = c.job.Sparse, chunkSize
	lim := c.job.Target.Limits()
	if c.job.Compress {
		unit = max(lim.ClusterSize, 512)
	} else if lim.ClusterSize > 0 {
		// A cluster is allocated as a whole.
		unit = max(unit, lim.ClusterSize)
		if z := lim.ZeroAlignment; z > 1 && z < lim.ClusterSize {
			unit = max(c.job.Sparse, z)
		}
	}
	if unit <= 0 {
		unit = 4096
	}
	if unit > chunk {
		chunk = unit
	}
	return unit, chunk / unit * unit
}

// clearTarget makes a target with unknown content read as zeroes, if that is
// cheap.
func (c *converter) clearTarget(ctx context.Context) error {
	flags := driver.ZeroMayUnmap | driver.ZeroNoFallback
	if c.job.Compress {
		// A compressed cluster cannot replace an allocated one.
		flags = driver.ZeroMayUnmap
	}
	lim := c.job.Target.Limits()
	if lim.ClusterSize == 0 && c.job.Target.Tree().Protocol().Traits().ObjectZeroes {
		// Objects that are written anyway need not be removed first.
		var err error
		c.zero, err = c.job.Target.ReadsZero(ctx, 0, c.src.size)
		return err
	}
	whole := c.src.size / max(lim.ZeroAlignment, 1) * max(lim.ZeroAlignment, 1)
	err := c.job.Target.WriteZeroes(ctx, 0, whole, flags)
	if errors.Is(err, driver.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	// Less than a cluster is left, and the target is larger.
	if err := c.job.Target.WriteZeroes(ctx, whole, c.src.size-whole, driver.ZeroMayUnmap); err != nil {
		return err
	}
	c.zero = true
	if lim.ClusterSize > 0 {
		// Freed clusters can be allocated again only after the metadata is written.
		return c.job.Target.Flush(ctx)
	}
	return nil
}

// workers is how many requests are in flight. Where they decode there is one more
// for each processor, so that there is something to do while a request waits to
// write. Where bytes are only moved between files, more than a few would wait for the same file: see
// docs/decisions/018-floor-of-plain-copies.md. To other machines there are as many as QEMU has.
func (c *converter) workers() int {
	if c.job.Compress {
		return Compressors(c.job.Workers, c.job.Target)
	}
	n := c.job.Workers
	if n <= 0 {
		n = max(2, runtime.GOMAXPROCS(0))
		if c.encoded {
			n *= 2
		}
		n = min(n, 8)
		switch {
		case c.remote:
			n = 8
		case c.plain:
			n = min(n, plainWorkers)
		}
	}
	return n
}

// plainWorkers is how many copy at most where bytes are only moved.
const plainWorkers = 4

// takesTime says whether a disk is encrypted, or a layer of it is not in a file that goes through the page cache here: what is
// read there may wait for another machine or a device.
func takesTime(img *block.Image) bool {
	for layer := img; layer != nil; layer = layer.Backing() {
		if h, ok := layer.Tree().Protocol().Tree().Node().(driver.FileHolder); !ok || h.File() == nil {
			return true
		}
	}
	return img.Traits().Encrypted
}

// What an encoder holds: the cluster that it reads, room for the result, a history of
// several clusters and tables.
const (
	encoderClusters = 9
	encoderTables   = 1 << 20
)

// Compressors is how many workers compress at a time into target: want, or the usual
// number if that is 0, as far as memory allows.
func Compressors(want int, target *block.Image) int {
	usual := min(max(2, resources.Processors()), 8)
	return resources.Workers(cmp.Or(want, usual), encoderClusters*target.Limits().ClusterSize+encoderTables)
}

// looksEncoded says whether compressed clusters are among the first ones of the
// source.
func (c *converter) looksEncoded(ctx context.Context) bool {
	off := int64(0)
	for range 64 {
		if off >= c.src.size {
			break
		}
		st, _, err := c.src.status(ctx, off, c.src.size-off, false)
		if err != nil || st.Compressed {
			return err == nil
		}
		off += st.Length
	}
	return false
}

// oneWriter says whether the target is a file that goes through the page cache,
// where file systems let one write at a time in. Taking turns on a lock of our
// own leaves the processors to decoding meanwhile; what was measured is in
// docs/decisions/004-one-writer.md.
func oneWriter(ctx context.Context, target *block.Image) bool {
	p := target.Tree().Protocol()
	return p.Traits().ZeroOnGrow && !p.Traits().Remote && !p.CacheMode().Direct
}

func (c *converter) run(ctx context.Context) (ConvertResult, error) {
	if c.job.TargetZero {
		c.zero = true
	}
	total, err := c.progressTotal(ctx)
	if err != nil {
		return ConvertResult{}, err
	}
	c.meter = newMeter(c.job.Progress, "copy", total)
	if c.job.Salvage {
		err = c.oneByOne(ctx)
	} else {
		err = c.sideBySide(ctx)
	}
	if e := ctx.Err(); e != nil {
		err = e
	}
	res := ConvertResult{Copied: c.copied.Load(), Zero: c.zeroed.Load(), Reflinked: c.reflinked.Load(), Skipped: c.skipped.Load()}
	if err == nil {
		c.meter.finish()
	}
	return res, err
}

// oneByOne finishes each unit before it plans the next: read errors are reported in
// the order of the disk, as QEMU does, and a damaged medium has one reader.
func (c *converter) oneByOne(ctx context.Context) error {
	var steps progressSteps
	var seq uint64
	for off := int64(0); off < c.src.size; seq++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		u, err := c.classify(ctx, off)
		if err != nil {
			return err
		}
		u.seq, u.report = seq, steps.report(u, true)
		if err := c.do(ctx, u); err != nil {
			return err
		}
		off += u.n
	}
	return nil
}

// sideBySide lets several workers process the units of the plan.
func (c *converter) sideBySide(ctx context.Context) error {
	workers := c.workers()
	return inOrder(ctx, workers, workers, c.plan, c.do)
}

// kind says what to do with a part of the disk.
type kind uint8

const (
	kindData kind = iota
	kindZero
	kindSkip // left to the backing file
)

// unit is a part of the disk that one worker handles.
type unit struct {
	seq    uint64
	off, n int64
	kind   kind
	report bool // report progress when the unit is done
	// Where the data is, for copying by the system; nil if it is not contiguous.
	file driver.Storage
	host int64
}

// plan walks the map of the source and hands out units in order. Data units
// start and end at multiples of the target's granularity where they can. What comes
// before a place of which the map cannot be read is handed out, too.
func (c *converter) plan(ctx context.Context, out func(unit) error) error {
	var seq uint64
	emit := func(u unit) error {
		u.seq = seq
		seq++
		return out(u)
	}
	// Each unit waits for the next one, which shows whether a range of data continues.
	var steps progressSteps
	var last unit
	for off := int64(0); off < c.src.size; {
		u, failed := c.classify(ctx, off)
		if off > 0 {
			last.report = steps.report(last, u.kind == kindData)
			if err := emit(last); err != nil {
				return err
			}
		}
		if failed != nil {
			if u.n > 0 {
				if err := emit(u); err != nil {
					return err
				}
			}
			return failed
		}
		last = u
		off += u.n
	}
	if c.src.size == 0 {
		return nil
	}
	last.report = true
	return emit(last)
}

// chunkEnd is where the chunk that holds off ends.
func (c *converter) chunkEnd(off int64) int64 {
	return min((off/c.chunk+1)*c.chunk, c.src.size)
}

// extent is the block status of a range of the source.
type extent struct {
	kind kind
	end  int64
	file driver.Storage
	host int64
}

// look gets the block status of the source at off. One goroutine at a time may call it.
func (c *converter) look(ctx context.Context, off int64) (extent, error) {
	st, ok := c.known.at(off)
	if !ok || c.offload() { // the system is told where the data are now
		var err error
		st, _, err = c.src.status(ctx, off, c.src.size-off, c.job.TargetBase != nil)
		if err != nil && c.job.Salvage && ctx.Err() == nil {
			st, err = c.salvageStatus(ctx, off)
		}
		if err != nil {
			return extent{}, err
		}
		c.known.note(off, st)
	}
	e := extent{kind: kindData, end: off + st.Length}
	if base := c.job.TargetBase; base != nil && c.job.TargetNew && (st.Zero || !st.Data) {
		if off >= base.Size() {
			e.kind = kindSkip
			return e, nil
		}
		e.end = min(e.end, base.Size())
	}
	switch {
	case st.Zero && c.job.Sparse > 0:
		e.kind = kindZero
	case st.Zero:
	case !st.Data:
		e.kind = kindSkip
		if base := c.job.TargetBase.Size(); off >= base {
			e.kind = kindZero
		} else {
			e.end = min(e.end, base)
		}
	case st.HasOffset && st.File != nil:
		e.file, e.host = st.File, st.Offset
	}
	return e, nil
}

// down rounds the end of a range down to whole units of the target; the end of
// the disk stays.
func (c *converter) down(end int64) int64 {
	if end == c.src.size {
		return end
	}
	return end / c.unit * c.unit
}

// classify decides what to do at off, a multiple of the unit. Runs of zeroes
// and of what is left to the backing file count if they fill whole units of the
// target; all else is data, up to the end of the chunk. With an error the unit is what
// comes before the place of which the map cannot be read, as far as it is whole.
func (c *converter) classify(ctx context.Context, off int64) (unit, error) {
	e, err := c.look(ctx, off)
	if err != nil {
		return unit{}, err
	}
	if end := c.down(e.end); e.kind != kindData && end > off {
		return unit{off: off, n: end - off, kind: e.kind}, nil
	}
	if e.file != nil && c.offload() {
		// Whole blocks of the file system; the last bytes of a disk are read.
		step := max(c.unit, offloadBlock)
		most := int64(maxOffload)
		if c.limit != nil || !c.canShare.Load() {
			// Until the system has copied once it may refuse, and the worker that asked copies the unit alone.
			most = chunkSize
		}
		if n := min((e.end-off)/step*step, max(most/step*step, step)); n > 0 && e.host%offloadBlock == 0 {
			return unit{off: off, n: n, kind: kindData, file: e.file, host: e.host}, nil
		}
	}
	end, limit := e.end, c.chunkEnd(off)
	for end < limit {
		from := end
		end = min((end+c.unit-1)/c.unit*c.unit, c.src.size)
		// An error of the map within the rest of the unit is reported nevertheless.
		for c.job.Salvage && from < min(end, limit) {
			if e, err = c.look(ctx, from); err != nil {
				return unit{}, err
			}
			from = e.end
		}
		if end >= limit {
			break
		}
		if e, err = c.look(ctx, end); err != nil {
			return unit{off: off, n: end - off, kind: kindData}, err
		}
		if e.kind != kindData && c.down(e.end) > end {
			break
		}
		end = e.end
	}
	return unit{off: off, n: min(end, limit) - off, kind: kindData}, nil
}

const (
	offloadBlock = 4096    // copies by the system start and end at multiples of this
	maxOffload   = 1 << 30 // and are no longer, so that progress and cancelling work
)

// offload says whether the system may copy.
func (c *converter) offload() bool {
	return (c.job.CopyRange || c.job.Reflink != ReflinkNever) && !c.job.Compress && !c.noReflink.Load()
}
