package check

import (
	"context"
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// checker verifies the metadata of an image file, and repairs it. It works on
// the file, below the caches of an open image. It is used once, by one
// goroutine.
type checker struct {
	ctx      context.Context
	file     driver.Storage
	budget   *driver.Budget
	hdr      ondisk.Header
	fix      driver.CheckFix
	report   func(line string)
	words    func(error) string
	progress func(done, total int64)

	size       int64 // guest bytes
	dataFile   bool
	bitmaps    ondisk.BitmapsExtension
	cryptoArea clusterSpan

	cs        int64
	entrySize int64 // of L2 tables
	blockBits uint32
	fileSize  int64

	l1        []uint64
	reftable  []uint64
	snapshots snapshotTable

	counts  *refCounts
	l2Reads int64 // L2 tables read from the file
	// suspect is set once anything was found: then the copied flags are
	// verified entry by entry.
	suspect   bool
	misplaced bool // misplacedBlock has spoken
	rebuild   bool // the refcount blocks cannot be used as they are
	changed   bool // something was written
	// rewritten are the clusters of L2 tables that were corrected: what had been
	// read ahead of them is out of date.
	rewritten map[int64]bool
	highest   int64

	res driver.CheckResult
}

// clusterSpan is a range of bytes in the file.
type clusterSpan struct{ off, n int64 }

// Request says what is checked. The caller has verified what is verified when an
// image is opened: cluster size, refcount order, and that L1 table and refcount table
// have a legal size and alignment.
type Request struct {
	File       driver.Storage // no other writer changes it meanwhile
	Budget     *driver.Budget
	Header     *ondisk.Header
	Extensions []ondisk.Extension
	Bitmaps    ondisk.BitmapsExtension
	// L1 is the active L1 table if it is in memory: as the file has it, of the length
	// that the header gives. A repair corrects flags in it too. Nil: it is read.
	L1       []uint64
	Fix      driver.CheckFix
	Report   func(line string)       // nil: not reported
	Words    func(error) string      // how lines of Report tell of an error; nil: its text
	Progress func(done, total int64) // nil: not reported
}

// Run checks a file, and repairs what Fix allows. The result counts what was found
// even if there is an error, whose text is what QEMU appends to "Check failed: ".
// changed says that something was written: it is not flushed yet, and what the caller
// has read of the file is out of date.
func Run(ctx context.Context, req Request) (res *driver.CheckResult, changed bool, err error) {
	h := req.Header
	c := &checker{ctx: ctx, file: req.File, budget: req.Budget, hdr: *h, size: int64(h.Size), bitmaps: req.Bitmaps,
		dataFile: h.Incompatible&ondisk.IncompatDataFile != 0,
		cs:       h.ClusterSize(), entrySize: int64(ondisk.L2EntrySize(h.ExtendedL2())),
		blockBits: h.ClusterBits + 3 - h.RefcountOrder, fileSize: req.File.Size(),
		fix: req.Fix, report: req.Report, words: req.Words, progress: req.Progress}
	if c.report == nil {
		c.report = func(string) {}
	}
	if c.words == nil {
		c.words = error.Error
	}
	if c.progress == nil {
		c.progress = func(int64, int64) {}
	}
	for _, e := range req.Extensions {
		if e.Type == ondisk.ExtCrypto && len(e.Data) >= 16 && h.CryptMethod == ondisk.CryptLUKS {
			c.cryptoArea = clusterSpan{int64(binary.BigEndian.Uint64(e.Data)), int64(binary.BigEndian.Uint64(e.Data[8:]))}
		}
	}
	if req.L1 != nil {
		c.l1 = req.L1[:c.wordsInFile(int64(h.L1TableOffset), int64(len(req.L1)))]
	}
	err = c.run()
	return &c.res, c.changed, err
}

func (c *checker) say(format string, args ...any) {
	c.suspect = true
	c.report(fmt.Sprintf(format, args...))
}

// corrupt reports a corruption that stays.
func (c *checker) corrupt(format string, args ...any) {
	c.res.Corruptions++
	c.say(format, args...)
}

// hex writes a number in the alternate form of C, which has no prefix for zero.
func hex(v uint64) string {
	if v == 0 {
		return "0"
	}
	return fmt.Sprintf("%#x", v)
}

// verb starts the message about something that is repaired if may says so.
func verb(may bool) string {
	if may {
		return "Repairing"
	}
	return "ERROR"
}

// errCheck ends a check; no is the error number that QEMU has in that place, or an error
// of the file.
func errCheck(no error) error { return driver.Errorf(driver.ErrCorrupt, "%w", no) }

// maxFileClusters is the largest number of clusters in a file that QEMU
// checks.
const maxFileClusters = 1<<31 - 1

func (c *checker) clusters(n int64) int64 {
	return n>>c.hdr.ClusterBits + min(1, n&(c.cs-1))
}

// run checks, and repairs what fix allows. The result counts what was found
// even if there is an error.
func (c *checker) run() error {
	defer func() {
		if c.counts != nil {
			c.counts.release()
		}
	}()
	var snap snapshotResult
	err := c.readSnapshotTable(&snap)
	if err != nil {
		c.addSnapshots(&snap)
		return err
	}
	err = c.checkRefcounts()
	if err == nil {
		err = c.fixSnapshotTable(&snap)
	}
	c.addSnapshots(&snap)
	if err != nil {
		return err
	}
	if (c.fix.Leaks || c.fix.Errors) && c.res.CheckErrors == 0 && c.res.Corruptions == 0 {
		return c.markClean()
	}
	return nil
}

func (c *checker) addSnapshots(s *snapshotResult) {
	c.res.Corruptions += s.corruptions
	c.res.CorruptionsFixed += s.fixed
	c.res.CheckErrors += s.errors
}

// checkRefcounts is the part of the check that has to do with references.
func (c *checker) checkRefcounts() error {
	n := c.clusters(c.fileSize)
	if n > maxFileClusters {
		c.res.CheckErrors++
		return errCheck(driver.ErrTooLarge)
	}
	c.res.TotalClusters = c.clusters(tableio.AlignUp(c.size, ondisk.SectorSize))
	var err error
	if c.l1 == nil {
		off := int64(c.hdr.L1TableOffset)
		if c.l1, err = c.readL1(off, c.wordsInFile(off, int64(c.hdr.L1Size))); err != nil {
			return err
		}
	}
	at := int64(c.hdr.RefcountTableOffset)
	if c.reftable, err = tableio.ReadWords(c.ctx, c.file, at, c.wordsInFile(at, c.reftableBytes()/8)); err != nil {
		c.res.CheckErrors++
		return errCheck(syscall.EIO)
	}
	c.counts = newRefCounts(n, c.budget)
	if err := c.countReferences(c.fix); err != nil {
		return err
	}
	before := c.res
	if err := c.compareRefcounts(driver.CheckFix{}); err != nil {
		return err
	}
	switch {
	case c.rebuild && c.fix.Errors:
		unread := c.res.CheckErrors - before.CheckErrors
		if err := c.rebuildRefcounts(); err != nil {
			return err
		}
		// Blocks that could not be read are not used any more.
		c.res.CheckErrors -= unread
	case c.fix.Leaks || c.fix.Errors:
		if c.rebuild {
			c.say("ERROR need to rebuild refcount structures")
			c.res.CheckErrors++
			return errCheck(syscall.EIO)
		}
		if c.res.Leaks != 0 || c.res.Corruptions != 0 {
			c.res = before
			if err := c.compareRefcounts(c.fix); err != nil {
				return err
			}
		}
	}
	if c.changed {
		// The copied flag lets a writer overwrite a cluster in place or drop its
		// refcount; so refcounts are on disk before flags are corrected.
		if err := c.file.Flush(c.ctx); err != nil {
			return err
		}
	}
	if c.suspect || !c.counts.copiedFlagsHold() {
		if err := c.checkCopied(); err != nil {
			return err
		}
	}
	c.res.ImageEndOffset = (c.highest + 1) << c.hdr.ClusterBits
	return nil
}

// countReferences counts the references to every cluster from everywhere but
// the refcounts.
func (c *checker) countReferences(fix driver.CheckFix) error {
	if err := c.count(0, c.cs); err != nil {
		return err
	}
	c.l2Reads = 0
	if err := c.countTables(l1Table{int64(c.hdr.L1TableOffset), int64(c.hdr.L1Size)}, c.l1, fix); err != nil {
		return err
	}
	if err := c.countSnapshots(fix); err != nil {
		return err
	}
	if err := c.count(int64(c.hdr.RefcountTableOffset), c.reftableBytes()); err != nil {
		return err
	}
	if err := c.count(c.cryptoArea.off, c.cryptoArea.n); err != nil {
		return err
	}
	if err := c.countBitmaps(); err != nil {
		return err
	}
	return c.checkRefcountBlocks(fix)
}

// count adds one to the counts of the clusters that [off, off+n) touches.
func (c *checker) count(off, n int64) error { return c.countTimes(off, n, 1) }

// countTimes adds times to the counts of the clusters that [off, off+n) touches.
func (c *checker) countTimes(off, n int64, times uint64) error {
	if n <= 0 {
		return nil
	}
	// The last cluster of a file may be cut short.
	if off < 0 || off > 1<<62 || off+n-c.fileSize >= c.cs || off >= tableio.AlignUp(c.fileSize, c.cs) {
		for range min(times, maxRepeats) {
			c.say("ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset %#x size %#x", off, n)
		}
		c.res.Corruptions += int64(times)
		return nil
	}
	first, last := off>>c.hdr.ClusterBits, (off+n-1)>>c.hdr.ClusterBits
	c.counts.grow(last + 1)
	highest := ondisk.MaxRefcount(c.hdr.RefcountOrder)
	for i := first; i <= last; i++ {
		v := c.counts.get(i)
		room := highest - v
		if over := times - min(times, room); over > 0 {
			for range min(over, maxRepeats) {
				c.say("ERROR: overflow cluster offset=%#x", i<<c.hdr.ClusterBits)
				c.report("Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy if the image cannot be opened for writing")
			}
			c.res.Corruptions += int64(over)
		}
		if err := c.counts.set(i, v+min(times, room)); err != nil {
			c.res.CheckErrors++
			return err
		}
	}
	return nil
}

// maxRepeats bounds how often one finding is reported when a table is reached
// from many snapshots.
const maxRepeats = 16

// wordsInFile returns how many of the n words of a table at off are within the
// file. The others are zero, and take no memory.
func (c *checker) wordsInFile(off, n int64) int64 {
	if off < 0 {
		return 0
	}
	return max(0, min(n, (c.fileSize-off+7)/8))
}

// reftableBytes returns the length of the refcount table.
func (c *checker) reftableBytes() int64 { return int64(c.hdr.RefcountTableClusters) * c.cs }

// readL1 reads an L1 table.
func (c *checker) readL1(off, n int64) ([]uint64, error) {
	l1, err := tableio.ReadWords(c.ctx, c.file, off, n)
	if err != nil {
		c.say("ERROR: I/O error in check_refcounts_l1")
		c.res.CheckErrors++
		return nil, errCheck(syscall.EIO)
	}
	return l1, nil
}

// markClean clears the dirty and the corrupt bit.
func (c *checker) markClean() error {
	const marks = ondisk.IncompatDirty | ondisk.IncompatCorrupt
	if c.hdr.Version < 3 || c.hdr.Incompatible&marks == 0 {
		return nil
	}
	// What was repaired is on disk before the image says that it is sound.
	if err := c.file.Flush(c.ctx); err != nil {
		return err
	}
	c.hdr.Incompatible &^= marks
	return c.writeHeader(ondisk.IncompatibleOffset, binary.BigEndian.AppendUint64(nil, c.hdr.Incompatible))
}
