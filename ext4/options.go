package ext4

import (
	"errors"
	"time"
)

// ErrNoSpace: the tree does not fit in the file system.
var ErrNoSpace = errors.New("the file system is too small for the tree")

// Options says how a file system is made.
type Options struct {
	// Size of the file system in bytes. What is no whole block at its end is not used, nor
	// is a last block group that is too small for its own tables.
	Size int64
	// BytesPerInode is for how many bytes of the file system there is an inode, 16384 where
	// it is 0. There are always enough for the tree.
	BytesPerInode int64
	// ResizeLimit is up to which size in bytes the file system can grow while it is
	// mounted, 1024 times its size where it is 0, and 16 TiB at most.
	ResizeLimit int64
	// ReservedPercent of the blocks are for root.
	ReservedPercent int
	// Label is up to 16 bytes.
	Label string
	// UUID of the file system, and the seed of the hashes of names. Where they are zero,
	// they are derived from the tree (not from the contents of files) and the options.
	UUID, HashSeed [16]byte
	// Time is when the file system was made; where it is zero it is the latest time of a
	// file.
	Time time.Time
	// NoJournal leaves the journal out. File systems of less than 8 MiB have none.
	NoJournal bool
}

// Report tells what was written.
type Report struct {
	// Size of the file system in bytes; Free of them are in free blocks.
	Size, Free int64
	// Inodes and FreeInodes are numbers of inodes.
	Inodes, FreeInodes int64
	UUID               [16]byte
	// Lost tells in plain words what of the tree the file system does not hold, once each.
	Lost []string
}

const (
	blockSize      = 4096
	blocksPerGroup = 8 * blockSize
	inodeSize      = 256
	inodesPerBlock = blockSize / inodeSize
	descSize       = 64
	flexGroups     = 16 // groups whose tables lie together
	extraSize      = 32 // bytes of an inode after the first 128

	rootInode     = 2
	resizeInode   = 7
	journalInode  = 8
	firstInode    = 11 // lost+found
	maxLinks      = 65000
	addrsPerBlock = blockSize / 4
)

// Features, by the fields of the superblock.
const (
	compatJournal  = 0x04
	compatXattr    = 0x08
	compatResize   = 0x10
	compatDirIndex = 0x20

	incompatFiletype = 0x02
	incompatExtents  = 0x40
	incompat64       = 0x80
	incompatFlex     = 0x200

	roSparseSuper = 0x01
	roLargeFile   = 0x02
	roHugeFile    = 0x08
	roDirNlink    = 0x20
	roExtraSize   = 0x40
	roChecksums   = 0x400
)
