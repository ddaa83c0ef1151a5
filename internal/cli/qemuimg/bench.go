package qemuimg

import (
	"errors"
	"fmt"
	"math"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
)

const (
	benchCount = iota + 1
	benchDepth
	benchOffset
	benchSize
	benchStep
	benchWrite
	benchPattern
	benchFlush
	benchNoDrain
	benchAIO
	benchNative
)

func benchCommand() *command {
	return &command{
		name: "bench", summary: "Run simple image benchmark", run: runBench,
		usage: []string{"[-f FMT | --image-opts] [-t CACHE] [-c COUNT] [-d DEPTH]",
			"[-o OFFSET] [-s BUFFER_SIZE] [-S STEP_SIZE] [-i AIO] [-n] [-U]",
			"[-w [--pattern PATTERN] [--flush-interval INTERVAL [--no-drain]]] FILENAME"},
		about: "Sends requests to the image, several at a time, and tells how long they took.\nWith -w the content of the disk is overwritten.",
		options: []option{helpOption(), quietOption(), formatOption(), imageOptsOption(),
			{id: optCache, long: "cache", short: 't', value: "CACHE", help: "the cache mode (default: writeback)"},
			{id: benchCount, long: "count", short: 'c', value: "COUNT", help: "how many requests to send (default: 75000)"},
			{id: benchDepth, long: "depth", short: 'd', value: "DEPTH", help: "how many at a time (default: 64)"},
			{id: benchOffset, long: "offset", short: 'o', value: "OFFSET", help: "where the first request starts"},
			{id: benchSize, long: "buffer-size", short: 's', value: "BUFFER_SIZE", help: "the size of a request (default: 4k)"},
			{id: benchStep, long: "step-size", short: 'S', value: "STEP_SIZE", help: "how far the start of each request is from the one before\n(default: the size of a request)"},
			{id: benchAIO, long: "aio", short: 'i', value: "AIO", help: "the way of submitting I/O: threads, native or io_uring"},
			{id: benchNative, long: "native", short: 'n', help: "the same as -i native"},
			{id: benchWrite, long: "write", short: 'w', help: "write instead of reading"},
			{id: benchPattern, long: "pattern", value: "PATTERN", help: "the byte to write (default: 0)"},
			{id: benchFlush, long: "flush-interval", value: "INTERVAL", help: "flush after so many requests"},
			{id: benchNoDrain, long: "no-drain", help: "let requests go on while flushing"},
			forceShareOption(),
			{id: optObject, long: "object", value: "OBJDEF", help: objectOption().help, exact: true},
		},
		operands: []operand{{"FILENAME", "the image"}},
		examples: []string{"-c 100000 -d 32 disk.qcow2", "-w -t none -f raw --flush-interval 256 scratch.raw"},
	}
}

func runBench(c *call, args []string) int {
	job := ops.BenchJob{Count: 75000, Depth: 64, Size: 4096, Drain: true}
	aio := ""
	c.cache = cacheWriteback
	code, ok := c.parse(args, func(id int, arg string) (err error) {
		n := int64(0)
		switch id {
		case benchCount:
			n, err = number("request count", arg, 1, math.MaxInt32)
			job.Count = int(n)
		case benchDepth:
			n, err = number("queue depth", arg, 1, math.MaxInt32)
			job.Depth = int(n)
		case benchOffset:
			job.Offset, err = size("offset", arg)
		case benchSize:
			job.Size, err = number("buffer size", arg, 1, math.MaxInt32)
		case benchStep:
			job.Step, err = number("step size", arg, 0, math.MaxInt32)
		case benchPattern:
			n, err = number("pattern byte", arg, 0, 0xff)
			job.Pattern = byte(n)
		case benchFlush:
			n, err = number("flush interval", arg, 0, math.MaxInt32)
			job.FlushInterval = int(n)
		case benchWrite:
			job.Write = true
		case benchNoDrain:
			job.Drain = false
		case benchAIO:
			if arg != "threads" && arg != "native" && arg != "io_uring" {
				return fmt.Errorf("Invalid aio option: %s", arg)
			}
			aio = arg
		case benchNative:
			aio = "native"
		}
		return err
	})
	if !ok {
		return code
	}
	if len(c.operands) != 1 {
		return c.usage("Expecting one image file name")
	}
	cache, ok := cacheMode(c.cache)
	switch {
	case !ok:
		return c.errorf("Invalid cache mode")
	case !job.Write && job.FlushInterval > 0:
		return c.errorf("--flush-interval is only available in write tests")
	case job.FlushInterval > 0 && job.FlushInterval < job.Depth:
		return c.errorf("Flush interval can't be smaller than depth")
	}
	im := c.image(c.operands[0])
	if aio != "" {
		im.options = opts.Dict{"file.aio": aio}
	}
	img, err := c.open(im, block.OpenOptions{Write: job.Write, ForceShare: c.forceShare, Cache: cache})
	if err != nil {
		return c.fail(err)
	}
	job.Image = img
	code = c.bench(job)
	if err := c.close(img); err != nil && code == 0 {
		return c.fail(err)
	}
	return code
}

func (c *call) bench(job ops.BenchJob) int {
	kind, step := "read", job.Step
	if job.Write {
		kind = "write"
	}
	if step == 0 {
		step = job.Size
	}
	fmt.Fprintf(c.Stdout, "Sending %d %s requests, %d bytes each, %d in parallel (starting at offset %d, step size %d)\n",
		job.Count, kind, job.Size, job.Depth, job.Offset, step)
	if job.FlushInterval > 0 {
		fmt.Fprintf(c.Stdout, "Sending flush every %d requests\n", job.FlushInterval)
	}
	took, err := ops.Bench(c.ctx, job)
	if err != nil {
		var io *block.IOError
		if errors.As(err, &io) {
			return c.errorf("Failed request: %s", render.System(io.Err))
		}
		return c.fail(err)
	}
	_, err = fmt.Fprintf(c.Stdout, "Run completed in %.3f seconds.\n", took.Seconds())
	return c.print(err)
}
