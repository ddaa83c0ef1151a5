package blockmap

import (
	"context"
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// State says what a table entry makes of its unit.
type State uint8

// The states of a unit.
const (
	Absent  State = iota // the backing file answers, if there is one; else zeroes
	Zero                 // zeroes, whatever the backing file has
	Data                 // the bytes lie at Host, those that Hooks.Sectors does not leave out
	Encoded              // Length bytes at Host, which the format decodes
	Bad                  // the entry cannot be right
)

// Entry is a decoded table entry.
type Entry struct {
	State  State
	Host   int64 // where the data of the unit begins in the file
	Length int64 // of Encoded
	// Partial: of Data, Hooks.Sectors tells which sectors are there.
	Partial bool
}

// Layout describes an image to New. Offsets and lengths are bytes.
type Layout struct {
	Unit int64 // bytes of the disk that an entry stands for; any multiple of 512

	// The table, or the tables that Dir names: entries of Width bytes (4 or 8) in
	// Order. Table and Entries are those of the flat table and not used with Dir.
	Table, Entries int64
	Width          int
	Order          binary.ByteOrder
	Dir            *Directory
	// Index returns the place of a unit in the flat table. Nil: the number of the unit.
	Index func(unit int64) int64

	// Decode and Encode are pure. Decode takes any value.
	Decode func(raw uint64) Entry
	Encode func(Entry) uint64

	// Units are allocated so that Host-First is a multiple of Align, with room for
	// Prefix bytes of the format in front of each. No unit lies before First.
	First, Align, Prefix int64
	// Lowest is where units of other programs may begin, 0 for First.
	Lowest int64
	// Reserved are parts of the file behind First that are in use, besides units and the
	// tables that Dir names.
	Reserved []driver.Range
	// Grain is the unit in which places are counted to find those that are used twice or
	// not at all, 0 for Align. Units of other programs may lie at odd multiples of it; with
	// Reuse, units of ours, too, where such were given up.
	Grain int64
	// Trailer is how many bytes the Linking hook writes behind the last unit.
	Trailer int64
	// Limit is the lowest offset at which no unit may begin, 0 if there is none.
	Limit int64

	AtEnd      bool // new units lie behind the end that the file had when the image was opened
	Reuse      bool // places between units that nothing names are used for new ones
	WholeUnits bool // a unit of which a part lies behind the end of the file is damaged
	Backing    bool // what is Absent is in a backing file
	ZeroState  bool // what has no room becomes Zero when zeroes are written
	FreeUnits  bool // Discard takes units out of the table, and their room is used again
	AbsentZero bool // without a backing file, Absent units count as allocated zeroes for block status
	Recurse    bool // block status looks for holes of the file inside units
	Writable   bool
	Sequential bool // see driver.OpenRequest

	// Noun is what the format calls a unit in messages: "block", "cluster".
	Noun string
}

// Directory is the upper table of a two-level layout. It names tables of TableBytes
// bytes each, a multiple of the entry width.
type Directory struct {
	Off, Entries int64
	Width        int
	TableBytes   int64
	Align        int64 // of new tables in the file
	// Decode returns the offset of a table, 0 if there is none. ok is false for
	// what cannot be right.
	Decode func(raw uint64) (off int64, ok bool)
	Encode func(off int64) uint64
}

// Hooks are what a format does besides. Each may be nil.
type Hooks struct {
	// FirstWrite is called before the first change of an open image, until it
	// succeeds once. Calls do not overlap.
	FirstWrite func(ctx context.Context) error
	// Linking is called before table entries are written that name new room. end is
	// where the last unit that was handed out ends; nothing is handed out meanwhile.
	// What it writes is durable before the entries are.
	Linking func(ctx context.Context, end int64) error
	// Sectors returns which sectors of 512 bytes of unit u, which is Partial and whose data
	// lies at host, are there, in a bitmap that begins with the most significant bit; the backing file
	// answers for the others. nil: all are. A unit of which a part is missing gets room of
	// its own when it is written to.
	Sectors func(ctx context.Context, u, host int64) ([]byte, error)
	// Rewrite is called before data is written to a unit that has room, at host.
	Rewrite func(ctx context.Context, host int64) error
	// Link writes changed pieces of the table, which the hook may do by way of a log. The
	// data of units is durable by then. Nil: they are written where they belong. For flat
	// tables.
	Link func(ctx context.Context, b *clustertable.Batch) error
	// Trimming is called before the file is cut off.
	Trimming func(ctx context.Context) error
	// NewUnit is called for each unit that gets room at host, before it is linked,
	// to write the prefix.
	NewUnit func(ctx context.Context, host int64) error
	// InUse tells Check what is in use besides units, the tables that Dir names, and Reserved.
	InUse func(ctx context.Context, use func(off, n int64)) error
	// Closing is called by Close once all else is on the disk, if the image was
	// changed.
	Closing func(ctx context.Context) error
}

func (l *Layout) lowest() int64 {
	if l.Lowest > 0 {
		return l.Lowest
	}
	return l.First
}

func (l *Layout) grain() int64 {
	if l.Grain > 0 {
		return l.Grain
	}
	return l.Align
}

func (l *Layout) sliceSize(table int64) int64 {
	size := int64(4096)
	for table > 0 && table%size != 0 && size > 512 {
		size /= 2
	}
	if table > 0 && table%size != 0 {
		return table
	}
	return size
}

// reservedEnd returns where what is in use besides units and tables ends.
func (l *Layout) reservedEnd() int64 {
	end := l.First
	for _, r := range l.Reserved {
		end = max(end, r.Offset+r.Length)
	}
	return end
}

// perTable is how many entries a table of a directory has.
func (l *Layout) perTable() int64 { return l.Dir.TableBytes / int64(l.Width) }

// units is how many units the tables have entries for.
func (l *Layout) units() int64 {
	if l.Dir != nil {
		return l.Dir.Entries * l.perTable()
	}
	return l.Entries
}

// tableEnd returns where the flat table ends in the file.
func (l *Layout) tableEnd() int64 { return l.Table + l.Entries*int64(l.Width) }

func word(order binary.ByteOrder, width int, b []byte) uint64 {
	if width == 4 {
		return uint64(order.Uint32(b))
	}
	return order.Uint64(b)
}

func putWord(order binary.ByteOrder, width int, b []byte, v uint64) {
	if width == 4 {
		order.PutUint32(b, uint32(v))
	} else {
		order.PutUint64(b, v)
	}
}

// decode is Decode with the checks that all formats share.
func (m *Disk) decode(b []byte) Entry { return m.decodeWord(word(m.l.Order, m.l.Width, b)) }

func (m *Disk) decodeWord(raw uint64) Entry {
	e := m.l.Decode(raw)
	if (e.State == Data || e.State == Encoded) && (e.Host-m.l.Prefix < m.l.lowest() || e.Host > maxOffset) {
		e.State = Bad
	}
	return e
}

// maxOffset bounds offsets in files, so that sums of a few cannot overflow.
const maxOffset = 1 << 61

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
