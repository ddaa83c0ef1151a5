package qemuimg

import (
	"fmt"
	"math"

	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
)

const (
	convertSnapshot = iota + 1
	convertFormat
	convertTargetImageOpts
	convertOptions
	convertCompress
	convertTargetCache
	convertBacking
	convertBackingFormat
	convertNoCreate
	convertTargetIsZero
	convertSparse
	convertBitmaps
	convertSkipBroken
	convertRate
	convertWorkers
	convertCopyRange
	convertSalvage
	convertOutOfOrder
	convertReflink
	convertChecksum
	convertForce
)

func convertCommand() *command {
	return &command{
		name: "convert", summary: "Copy one image to another with optional format conversion", run: runConvert,
		usage: []string{"[-f SRC_FMT | --image-opts] [-T SRC_CACHE] [-l SNAPSHOT] [-U]",
			"[-O TGT_FMT | --target-image-opts] [-o TGT_OPTS] [-t TGT_CACHE] [-n [--target-is-zero]]",
			"[-b BACKING_FILENAME [-F BACKING_FMT]] [-c] [-S SPARSE_SIZE] [-m NUM] [-W] [-C]",
			"[-r RATE] [--salvage] [--reflink WHEN] [--checksum ALGORITHM] [-p] [-q]",
			"[--object OBJDEF] SRC_FILENAME [SRC_FILENAME2 …] TGT_FILENAME"},
		about: "Copies the disk SRC_FILENAME (several are put one after the other) to a new image.\nZeroes become holes where the target has holes. '-' as SRC_FILENAME reads a raw disk\nfrom the standard input, '-' as TGT_FILENAME writes to the standard output.",
		options: append([]option{helpOption(), quietOption(), progressOption(),
			{id: optImageOpts, long: "source-image-opts", help: "SRC_FILENAMEs are lists of options instead of file names"},
			{id: optImageOpts, long: "image-opts"},
			{id: optFormat, long: "source-format", short: 'f', value: "SRC_FMT", help: "the format of SRC_FILENAME; without it the format is probed"},
			{id: optCache, long: "source-cache", short: 'T', value: "SRC_CACHE", help: "the cache mode for reading (default: writeback)"},
			{id: convertSnapshot, long: "snapshot", short: 'l', value: "SNAPSHOT", help: "copy this snapshot of SRC_FILENAME: an id, a name, snapshot.id=ID or\nsnapshot.name=NAME"},
			{id: convertSnapshot, long: "source-snapshot", value: "SNAPSHOT", exact: true}}, convertTargetOptions()...),
		operands: []operand{{"SRC_FILENAME", "the image to read"}, {"TGT_FILENAME", "the image to write"}},
		examples: []string{"-O qcow2 disk.raw disk.qcow2", "-p -c -O qcow2 -o compression_type=zstd disk.qcow2 small.qcow2",
			"--checksum sha256 disk.qcow2 disk.raw"},
	}
}

func convertTargetOptions() []option {
	return []option{
		objectOption(),
		{id: convertFormat, long: "output-format", value: "TGT_FMT"},
		{id: convertFormat, long: "target-format", short: 'O', value: "TGT_FMT", help: "the format of the target (default: raw)", exact: true},
		{id: convertTargetImageOpts, long: "target-image-opts", help: "TGT_FILENAME is a list of options instead of a file name; needs -n"},
		{id: convertOptions, long: "options", value: "TGT_OPTS"},
		{id: convertOptions, long: "target-format-options", value: "TGT_OPTS", exact: true},
		{id: convertOptions, long: "target-options", short: 'o', value: "TGT_OPTS", help: "options of the new image, as for create; 'help' lists them", exact: true},
		{id: convertTargetCache, long: "output-cache", value: "TGT_CACHE"},
		{id: convertTargetCache, long: "target-cache", short: 't', value: "TGT_CACHE", help: "the cache mode for writing (default: unsafe)", exact: true},
		{id: convertBacking, long: "backing", short: 'b', value: "BACKING_FILENAME", help: "the new image rests on this one; what SRC_FILENAME leaves to its own\nbacking file is left to it. -B means the same"},
		{id: convertBacking, short: 'B', value: "BACKING_FILENAME"},
		{id: convertBackingFormat, long: "backing-format", short: 'F', value: "BACKING_FMT", help: "the format of BACKING_FILENAME, which must be given"},
		{id: convertCompress, long: "compress", short: 'c', help: "write compressed clusters, where the format has them"},
		{id: convertNoCreate, long: "no-create", short: 'n', help: "the target exists: write into it"},
		{id: convertTargetIsZero, long: "target-is-zero", help: "with -n: the target reads as zeroes now, so that they need not be written"},
		{id: convertSparse, long: "sparse-size", short: 'S', value: "SPARSE_SIZE", help: "how many zero bytes in a row become a hole (default: 4k); with 0, every\nbyte is written"},
		{id: convertSalvage, long: "salvage", help: "go on after read errors; what cannot be read becomes zeroes"},
		{id: convertBitmaps, long: "bitmaps", help: "copy the persistent bitmaps as well"},
		{id: convertSkipBroken, long: "skip-broken-bitmaps", help: "with --bitmaps: leave out those that are inconsistent"},
		forceShareOption(),
		{id: convertRate, long: "rate", value: "RATE", short: 'r', help: "copy at most RATE bytes per second"},
		{id: convertRate, long: "rate-limit", value: "RATE"},
		{id: convertWorkers, long: "parallel", short: 'm', value: "NUM", help: "how many requests are under way at a time, 1 to 16 (default: 8)"},
		{id: convertCopyRange, long: "copy-range-offloading", short: 'C', help: "let the file system copy, without looking for zeroes"},
		{id: convertOutOfOrder, long: "oob-writes", short: 'W', help: "allow writing out of order, which can be faster"},
		{id: convertReflink, long: "reflink", value: "auto|always|never", exact: true, help: "share the blocks of the source where the file system can (auto, the\ndefault), fail if it cannot (always), or copy (never)"},
		{id: convertForce, long: "force", exact: true, help: "erase what is in the file that -o data_file names"},
		{id: convertChecksum, long: "checksum", value: "ALGORITHM", exact: true, help: "print a checksum of the disk at the end, as the command checksum does:\nsha256, sha384 or sha512"},
	}
}

// conversion is one run of convert.
type conversion struct {
	*call
	sources []string
	target  string

	snapshot        snapshotParam
	format          string
	formatGiven     bool
	targetImageOpts bool
	list            optionList
	targetCache     string
	backing, backFm *string
	compress        bool
	noCreate        bool
	targetIsZero    bool
	sparse          int64
	sparseGiven     bool
	bitmaps         bool
	skipBroken      bool
	force           bool
	rate            int64
	workers         int
	copyRange       bool
	salvage         bool
	outOfOrder      bool
	reflink         ops.ReflinkMode
	sum             *digest

	progress *render.Progress
}

func newConversion(c *call) *conversion {
	c.cache = cacheWriteback
	return &conversion{call: c, targetCache: cacheUnsafe, sparse: ops.DefaultSparse}
}

// outFormat is the format of the target, "" if its options say it.
func (cv *conversion) outFormat() string {
	if !cv.formatGiven && !cv.targetImageOpts {
		return "raw"
	}
	return cv.format
}

// The limits of -S, in bytes.
const (
	sparseUnit = 512
	maxSparse  = 16 << 20
)

// set takes an option.
func (cv *conversion) set(id int, arg string) (err error) {
	switch id {
	case convertSnapshot:
		cv.snapshot, err = parseSnapshot(arg)
	case convertFormat:
		cv.format, cv.formatGiven = arg, true
	case convertTargetImageOpts:
		cv.targetImageOpts = true
	case convertOptions:
		err = cv.list.add(arg)
	case convertCompress:
		cv.compress = true
	case convertTargetCache:
		cv.targetCache = arg
	case convertBacking:
		cv.backing = &arg
	case convertBackingFormat:
		cv.backFm = &arg
	case convertNoCreate:
		cv.noCreate = true
	case convertTargetIsZero:
		cv.targetIsZero = true
	case convertSparse:
		cv.sparseGiven = true
		err = cv.setSparse(arg)
	case convertBitmaps:
		cv.bitmaps = true
	case convertSkipBroken:
		cv.skipBroken = true
	case convertRate:
		cv.rate, err = size("rate limit", arg)
	case convertWorkers:
		n, e := coroutines(arg)
		cv.workers, err = int(n), e
	case convertCopyRange:
		cv.copyRange = true
	case convertSalvage:
		cv.salvage = true
	case convertOutOfOrder:
		cv.outOfOrder = true
	case convertReflink:
		err = cv.setReflink(arg)
	case convertForce:
		cv.force = true
	case convertChecksum:
		cv.sum, err = newDigest(arg)
	}
	return err
}

func coroutines(arg string) (int64, error) { return number("number of coroutines", arg, 1, 16) }

func (cv *conversion) setSparse(arg string) error {
	n, err := number("buffer size for sparse output", arg, 0, math.MaxInt64)
	if err != nil {
		return err
	}
	if n%sparseUnit != 0 || n > maxSparse {
		return fmt.Errorf("Invalid buffer size for sparse output specified. Valid sizes are multiples of %d up to %d. Select 0 to disable sparse detection (fully allocates output).",
			sparseUnit, maxSparse)
	}
	cv.sparse = n
	return nil
}

func (cv *conversion) setReflink(arg string) error {
	switch arg {
	case "auto":
		cv.reflink = ops.ReflinkAuto
	case "always":
		cv.reflink = ops.ReflinkAlways
	case "never":
		cv.reflink = ops.ReflinkNever
	default:
		return usagef("--reflink expects 'auto', 'always' or 'never' not '%s'", arg)
	}
	return nil
}
