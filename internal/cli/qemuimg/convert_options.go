package qemuimg

import (
	"context"
	"fmt"
	"math"

	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
)

func convertCommand(c *call) *program.Command {
	cv := newConversion(c)
	return &program.Command{
		Name: "convert", Summary: "Copy one image to another with optional format conversion",
		Usage: []string{"[-f SRC_FMT | --image-opts] [-T SRC_CACHE] [-l SNAPSHOT] [-U]",
			"[-O TGT_FMT | --target-image-opts] [-o TGT_OPTS] [-t TGT_CACHE] [-n [--target-is-zero]]",
			"[-b BACKING_FILENAME [-F BACKING_FMT]] [-c] [-S SPARSE_SIZE] [-m NUM] [-W] [-C]",
			"[-r RATE] [--bitmaps [--skip-broken-bitmaps]] [--salvage] [--reflink WHEN]",
			"[--for PLATFORM] [--checksum ALGORITHM] [--force] [-p] [-q]",
			"[--object OBJDEF] SRC_FILENAME [SRC_FILENAME2 …] TGT_FILENAME"},
		About:    "Copies the disk SRC_FILENAME (several are put one after the other) to a new image.\nZeroes become holes where the target has holes. '-' as SRC_FILENAME reads a raw disk\nfrom the standard input, '-' as TGT_FILENAME writes to the standard output.",
		Options:  append(cv.sourceOptions(), cv.targetOptions()...),
		Operands: []program.Operand{{Name: "SRC_FILENAME", Help: "the image to read"}, {Name: "TGT_FILENAME", Help: "the image to write"}},
		Examples: []string{"-O qcow2 disk.raw disk.qcow2", "-p -c -O qcow2 -o compression_type=zstd disk.qcow2 small.qcow2",
			"--checksum sha256 disk.qcow2 disk.raw"},
		Rules: cv.rules(),
		Run:   func(context.Context, []string) int { return cv.runCommand() },
	}
}

// rules are the options that do not go together.
func (cv *conversion) rules() []program.Rule {
	return []program.Rule{
		program.Never(func() bool { return cv.compress && cv.copyRange }, "Cannot enable copy offloading when -c is used"),
		program.Never(func() bool { return cv.sparseGiven && cv.copyRange }, "Cannot enable copy offloading when -S is used"),
		program.Never(func() bool { return cv.salvage && cv.copyRange }, "Cannot use copy offloading in salvaging mode"),
		program.Never(func() bool { return cv.reflink == ops.ReflinkAlways && cv.compress }, "Cannot use --reflink=always when -c is used"),
		program.Never(func() bool { return cv.targetImageOpts && !cv.noCreate }, "--target-image-opts requires use of -n flag"),
		program.Never(func() bool { return cv.noCreate && cv.list.given() && !cv.list.wantsHelp() }, "-o has no effect when skipping image creation"),
		program.Never(func() bool { return cv.targetIsZero && !cv.noCreate }, "--target-is-zero requires use of -n flag"),
		program.Never(func() bool { return cv.skipBroken && !cv.bitmaps }, "Use of --skip-broken-bitmaps requires --bitmaps"),
	}
}

func (cv *conversion) sourceOptions() []program.Option {
	c := cv.call
	return []program.Option{c.helpOption(), c.quietOption(), c.progressOption(),
		program.Flag(&c.imageOpts, "--image-opts", "SRC_FILENAMEs are lists of options instead of file names").Also("--source-image-opts"),
		c.formatOptionAs("-f, --source-format SRC_FMT", "the format of SRC_FILENAME; without it the format is probed"),
		c.cacheOption("-T, --source-cache SRC_CACHE", "the cache mode for reading (default: writeback)"),
		snapshotOption(&cv.snapshot, "-l, --snapshot SNAPSHOT", "copy this snapshot of SRC_FILENAME: an id, a name, snapshot.id=ID or\nsnapshot.name=NAME").AlsoInFull("--source-snapshot"),
	}
}

func (cv *conversion) targetOptions() []program.Option {
	c := cv.call
	return []program.Option{c.objectOption(),
		program.Given(&cv.format, "-O, --target-format TGT_FMT", "the format of the target (default: raw)").InFull().Also("--output-format").Offering(c.formats()...),
		program.Flag(&cv.targetImageOpts, "--target-image-opts", "TGT_FILENAME is a list of options instead of a file name; needs -n"),
		program.Func("-o, --target-options TGT_OPTS", "options of the new image, as for create; 'help' lists them", cv.list.add).InFull().Also("--options").AlsoInFull("--target-format-options"),
		program.Text(&cv.targetCache, "-t, --target-cache TGT_CACHE", "the cache mode for writing (default: unsafe)").InFull().Also("--output-cache").Offering(cacheModes...),
		program.Given(&cv.backing, "-b, --backing BACKING_FILENAME", "the new image rests on this one; what SRC_FILENAME leaves to its own\nbacking file is left to it. -B means the same").Also("-B"),
		program.Given(&cv.backFm, "-F, --backing-format BACKING_FMT", "the format of BACKING_FILENAME, which must be given").Offering(c.formats()...),
		program.Flag(&cv.compress, "-c, --compress", "write compressed clusters, where the format has them"),
		program.Flag(&cv.noCreate, "-n, --no-create", "the target exists: write into it"),
		program.Flag(&cv.targetIsZero, "--target-is-zero", "with -n: the target reads as zeroes now, so that they need not be written"),
		program.Func("-S, --sparse-size SPARSE_SIZE", "how many zero bytes in a row become a hole (default: 4k); with 0, every\nbyte is written", cv.setSparse),
		program.Flag(&cv.salvage, "--salvage", "go on after read errors; what cannot be read becomes zeroes"),
		program.Flag(&cv.bitmaps, "--bitmaps", "copy the persistent bitmaps as well"),
		program.Flag(&cv.skipBroken, "--skip-broken-bitmaps", "with --bitmaps: leave out those that are inconsistent"),
		c.forceShareOption(),
		sizeOption(&cv.rate, "-r, --rate RATE", "copy at most RATE bytes per second", "rate limit").Also("--rate-limit"),
		numberOption(&cv.workers, "-m, --parallel NUM", "how many requests are under way at a time, 1 to 16 (default: 8)", "number of coroutines", 1, 16),
		program.Flag(&cv.copyRange, "-C, --copy-range-offloading", "let the file system copy, without looking for zeroes"),
		program.Flag(&cv.outOfOrder, "-W, --oob-writes", "allow writing out of order, which can be faster"),
		program.Func("--reflink auto|always|never", "share the blocks of the source where the file system can (auto, the\ndefault), fail if it cannot (always), or copy (never)", cv.setReflink).InFull().Offering("auto", "always", "never"),
		program.Flag(&cv.force, "--force", "erase what is in the file that -o data_file names").InFull(),
		program.Func("--for PLATFORM", "choose the format, its options and the size of the disk as PLATFORM wants them,\nand say so: "+platformHelp(), cv.setPlatform).InFull().Offering(platformNames()...),
		program.Func("--checksum ALGORITHM", "print a checksum of the disk at the end, as the command checksum does:\nsha256, sha384 or sha512", func(arg string) (err error) {
			cv.sum, err = newDigest(arg)
			return err
		}).InFull().Offering(digestNames...),
	}
}

// conversion is one run of convert.
type conversion struct {
	*call
	sources []string
	target  string

	snapshot        snapshotParam
	format          *string // of the target
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
	platform        *platform // nil: none
	platformName    string

	progress *render.Progress
}

func newConversion(c *call) *conversion {
	return &conversion{call: c, targetCache: cacheUnsafe, sparse: ops.DefaultSparse}
}

// outFormat is the format of the target, "" if its options say it.
func (cv *conversion) outFormat() string {
	switch {
	case cv.format != nil:
		return *cv.format
	case cv.targetImageOpts:
		return ""
	}
	return "raw"
}

// The limits of -S, in bytes.
const (
	sparseUnit = 512
	maxSparse  = 16 << 20
)

func (cv *conversion) setSparse(arg string) error {
	cv.sparseGiven = true
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
		return program.Usagef("--reflink expects 'auto', 'always' or 'never', not '%s'", arg)
	}
	return nil
}
