package dmg

import (
	"math"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
)

// Types of runs.
const (
	typeZero    = 0
	typeRaw     = 1
	typeIgnore  = 2 // not used by a file system: zeroes, which no checksum counts
	typeADC     = 0x80000004
	typeZlib    = 0x80000005
	typeBzip2   = 0x80000006
	typeLZFSE   = 0x80000007
	typeLZMA    = 0x80000008
	typeComment = 0x7ffffffe
	typeEnd     = 0xffffffff
)

const (
	mishHeader = 204 // bytes in front of the runs of a table
	runSize    = 40
	runMemory  = 32 // bytes that a run takes in memory
)

// run is a range of sectors of the disk that is stored in one way.
type run struct {
	sector, count int64
	pos           int64 // of its bytes in all data of the image
	length        uint32
	kind          uint32
}

func (r *run) isZero() bool { return r.kind == typeZero || r.kind == typeIgnore }

// table is what is remembered of one table, for checking.
type table struct {
	sector, count int64
	sum           checksum
}

// runs collects the runs of all tables of an image.
type runs struct {
	list     []run
	tables   []table
	budget   *driver.Budget
	reserved int64
	warn     func(string)
	unknown  bool // warned of a type
}

// release gives the memory of the runs back to the budget.
func (r *runs) release() {
	r.budget.Release(r.reserved)
	r.list, r.tables, r.reserved = nil, nil, 0
}

// reserve makes room for one more run.
func (r *runs) reserve() error {
	if len(r.list) < cap(r.list) {
		return nil
	}
	more := max(256, cap(r.list)/2)
	n := int64(cap(r.list)+more) * runMemory
	if err := r.budget.Table("the list of runs", n); err != nil {
		return err
	}
	larger := make([]run, len(r.list), cap(r.list)+more)
	copy(larger, r.list)
	r.budget.Release(r.reserved)
	r.list, r.reserved = larger, n
	return nil
}

// tableReader takes one table in pieces of any length. What does not begin as a table
// does is skipped: lists hold other things as well.
type tableReader struct {
	to      *runs
	pending []byte // less than a header, or than a run
	skip    bool
	started bool
	first   int64 // sector that those of runs are relative to
	data    int64 // the same for offsets in the data
}

func (t *tableReader) write(p []byte) error {
	for len(p) > 0 && !t.skip {
		want := mishHeader
		if t.started {
			want = runSize
		}
		n := min(want-len(t.pending), len(p))
		t.pending = append(t.pending, p[:n]...)
		p = p[n:]
		if len(t.pending) >= 4 && !t.started && string(t.pending[:4]) != "mish" {
			t.skip = true
			return nil
		}
		if len(t.pending) < want {
			continue
		}
		if err := t.record(t.pending); err != nil {
			return err
		}
		t.pending = t.pending[:0]
	}
	return nil
}

// record takes a header or a run.
func (t *tableReader) record(b []byte) error {
	if !t.started {
		first, count, data := be.Uint64(b[8:]), be.Uint64(b[16:]), be.Uint64(b[24:])
		if first > math.MaxInt64/sectorSize || count > math.MaxInt64/sectorSize || data > math.MaxInt64/2 {
			return driver.Errorf(driver.ErrCorrupt, "a table of %d sectors at sector %d, whose data are at %d, is impossible", count, first, data)
		}
		t.started, t.first, t.data = true, int64(first), int64(data)
		t.to.tables = append(t.to.tables, table{sector: t.first, count: int64(count), sum: decodeChecksum(b[64:])})
		return nil
	}
	kind, sector, count := be.Uint32(b), be.Uint64(b[8:]), be.Uint64(b[16:])
	pos, length := be.Uint64(b[24:]), be.Uint64(b[32:])
	r := run{kind: kind}
	switch kind {
	case typeComment, typeEnd:
		return nil
	case typeZero, typeIgnore, typeRaw, typeADC, typeZlib, typeBzip2, typeLZFSE, typeLZMA:
	default:
		if !t.to.unknown {
			t.to.unknown = true
			t.to.warn("Image contains chunks of unknown type " + hex(kind) + ", accessing them will result in I/O errors")
		}
		length = 0
	}
	index := len(t.to.list)
	switch {
	case !r.isZero() && count > maxChunk/sectorSize:
		return driver.Errorf(driver.ErrCorrupt, "sector count %d for chunk %d is larger than max (%d)", count, index, maxChunk/sectorSize)
	case length > maxChunk:
		return driver.Errorf(driver.ErrCorrupt, "length %d for chunk %d is larger than max (%d)", length, index, maxChunk)
	case sector > math.MaxInt64/sectorSize || count > math.MaxInt64/sectorSize || t.first+int64(sector) > math.MaxInt64/sectorSize-int64(count):
		return driver.Errorf(driver.ErrCorrupt, "chunk %d of %d sectors at sector %d is impossible", index, count, sector)
	case pos > math.MaxInt64/4:
		return driver.Errorf(driver.ErrCorrupt, "chunk %d at byte %d of the data is impossible", index, pos)
	case kind == typeRaw && length < count*sectorSize:
		return driver.Errorf(driver.ErrCorrupt, "chunk %d of %d sectors has %d bytes only", index, count, length)
	case count == 0:
		return nil
	}
	r.sector, r.count, r.pos, r.length = t.first+int64(sector), int64(count), t.data+int64(pos), uint32(length)
	if err := t.to.reserve(); err != nil {
		return err
	}
	t.to.list = append(t.to.list, r)
	return nil
}

// sort puts the runs in the order of the disk. None may overlap another.
func (r *runs) sort() error {
	byPlace := func(a, b run) int { return int(max(-1, min(1, a.sector-b.sector))) }
	if !slices.IsSortedFunc(r.list, byPlace) {
		slices.SortFunc(r.list, byPlace)
	}
	for i := 1; i < len(r.list); i++ {
		if a, b := &r.list[i-1], &r.list[i]; a.sector+a.count > b.sector {
			return driver.Errorf(driver.ErrCorrupt, "two chunks hold sector %d", b.sector)
		}
	}
	return nil
}

// find returns the run that holds a sector, nil if none does.
func (r *runs) find(sector int64) *run {
	i, found := slices.BinarySearchFunc(r.list, sector, func(a run, s int64) int { return int(max(-1, min(1, a.sector-s))) })
	if !found {
		i--
	}
	if i < 0 || sector >= r.list[i].sector+r.list[i].count {
		return nil
	}
	return &r.list[i]
}
