package block

import (
	"log/slog"

	"github.com/cowl-disk/cowl/block/driver"
)

// OpenOptions say how to open an image. Most callers set Write and Gate, and Objects
// for an encrypted image; the groups are for what programs like qemu-img ask.
type OpenOptions struct {
	Write bool // false: nothing is changed, whatever is found
	// Gate decides about the files that the image names. It must be set.
	Gate driver.Gate
	// Objects holds the secrets and TLS credentials that options refer to by id; nil
	// if there are none.
	Objects driver.Objects
	// Budget bounds what the image may cost; nil means the defaults.
	Budget *driver.Budget
	// Snapshot, if not empty, opens the disk of that internal snapshot (id or name),
	// read-only.
	Snapshot string
	Cache    driver.Cache
	Unmap    bool // let discard requests through
	// Connections keeps connections to servers between the requests of one operation; nil
	// keeps none. What sets it closes it.
	Connections *driver.Connections

	Chain    ChainUse
	Use      Use
	Sharing  Sharing
	Messages Messages
}

// ChainUse says how the backing chain is opened.
type ChainUse struct {
	NoBacking bool // do not open the backing file
	// WriteBacking opens one layer of the chain for writing and resizing: the one that
	// WriteBase names (as Tree.FindBacking finds it), or the first.
	WriteBacking bool
	WriteBase    string
}

// Use says what the image is opened for. Nothing else should be done with it then.
type Use struct {
	NoIO       bool // only metadata will be read
	Check      bool // check and repair: open leniently
	Sequential bool // the disk will be read or written once, in order: small caches suffice
	Repeatable bool // after driver.ErrForgotten the image is made and written again from the start
}

// Sharing says what other processes may do with the image meanwhile, where images are
// locked.
type Sharing struct {
	Exclusive bool // not write or resize it
	FixedSize bool // not resize it
	Resize    bool // not count on its size, which will change
	Force     bool // take no locks at all (-U)
}

// Messages says where what is to be told about the image goes. The functions may be
// called by several goroutines, but for Report.
type Messages struct {
	// Warn takes warnings for the user; nil drops them.
	Warn func(msg string)
	// Log takes what is of interest when a fault is looked for; nil drops it.
	Log *slog.Logger
	// Report takes lines about what opening repairs in the image, one goroutine's at
	// a time; they may be very many. Nil drops them.
	Report func(line string)
	// Words puts an error into the words in which Warn and Report tell of it. Nil: its text.
	Words func(err error) string
	// ProbedRaw is called when no format was given and an image that is to be
	// written was taken for raw.
	ProbedRaw func(name string)
}
