package qemuimg

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/internal/resources"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
)

// benching is one run of bench.
type benching struct {
	*call
	job ops.BenchJob
	aio string
}

func benchCommand(c *call) *program.Command {
	b := &benching{call: c, job: ops.BenchJob{Count: 75000, Depth: 64, Size: 4096, Drain: true}}
	return &program.Command{
		Name: "bench", Summary: "Run simple image benchmark",
		Usage: []string{"[-f FMT | --image-opts] [-t CACHE] [-c COUNT] [-d DEPTH]",
			"[-o OFFSET] [-s BUFFER_SIZE] [-S STEP_SIZE] [-i AIO] [-n] [-U] [-q]",
			"[-w [--pattern PATTERN] [--flush-interval INTERVAL [--no-drain]]]",
			"[--object OBJDEF] FILENAME"},
		About: "Sends requests to the image, several at a time, and tells how long they took.\nWith -w the content of the disk is overwritten.",
		Options: []program.Option{c.helpOption(), c.quietOption(), c.formatOption(), c.imageOptsOption(),
			c.cacheOption("-t, --cache CACHE", "the cache mode (default: writeback)"),
			numberOption(&b.job.Count, "-c, --count COUNT", "how many requests to send (default: 75000)", "request count", 1, math.MaxInt32),
			numberOption(&b.job.Depth, "-d, --depth DEPTH", "how many at a time (default: 64)", "queue depth", 1, math.MaxInt32),
			sizeOption(&b.job.Offset, "-o, --offset OFFSET", "where the first request starts", "offset"),
			numberOption(&b.job.Size, "-s, --buffer-size BUFFER_SIZE", "the size of a request (default: 4k)", "buffer size", 1, math.MaxInt32),
			numberOption(&b.job.Step, "-S, --step-size STEP_SIZE", "how far the start of each request is from the one before\n(default: the size of a request)", "step size", 0, math.MaxInt32),
			program.Func("-i, --aio AIO", "the way of submitting I/O: threads, native or io_uring", b.setAIO).Offering("threads", "native", "io_uring"),
			program.Func("-n, --native", "the same as -i native", func(string) error { return b.setAIO("native") }),
			program.Flag(&b.job.Write, "-w, --write", "write instead of reading"),
			numberOption(&b.job.Pattern, "--pattern PATTERN", "the byte to write (default: 0)", "pattern byte", 0, 0xff),
			numberOption(&b.job.FlushInterval, "--flush-interval INTERVAL", "flush after so many requests", "flush interval", 0, math.MaxInt32),
			program.Func("--no-drain", "let requests go on while flushing", func(string) error { b.job.Drain = false; return nil }),
			c.forceShareOption(), c.objectOption().InFull(),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image"}},
		Examples: []string{"-c 100000 -d 32 disk.qcow2", "-w -t none -f raw --flush-interval 256 scratch.raw"},
		Rules: []program.Rule{
			{Broken: func(operands []string) bool { return len(operands) != 1 }, Says: "Expecting one image file name", Usage: true},
			program.Never(func() bool { _, ok := cacheMode(c.cache); return !ok }, "Invalid cache mode"),
			program.Never(func() bool { return !b.job.Write && b.job.FlushInterval > 0 }, "--flush-interval is only available in write tests"),
			program.Never(func() bool { return b.job.FlushInterval > 0 && b.job.FlushInterval < b.job.Depth }, "Flush interval can't be smaller than depth"),
		},
		Run: b.run,
	}
}

func (b *benching) setAIO(arg string) error {
	if arg != "threads" && arg != "native" && arg != "io_uring" {
		return fmt.Errorf("Invalid aio option: %s", arg)
	}
	b.aio = arg
	return nil
}

func (b *benching) run(_ context.Context, operands []string) int {
	c, job := b.call, b.job
	cache, _ := cacheMode(c.cache)
	// The product cannot overflow: both are numbers of 31 bits.
	if err := resources.Claim(int64(job.Depth) * job.Size); err != nil {
		return c.fail(err)
	}
	im := c.image(operands[0])
	if b.aio != "" {
		im.options = opts.Dict{"file.aio": b.aio}
	}
	img, err := c.open(im, block.OpenOptions{Write: job.Write, Sharing: block.Sharing{Force: c.forceShare}, Cache: cache})
	if err != nil {
		return c.fail(err)
	}
	job.Image = img
	code := c.bench(job)
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
			return c.errorf("Failed request: %s", words.System(io.Err))
		}
		return c.fail(err)
	}
	_, err = fmt.Fprintf(c.Stdout, "Run completed in %.3f seconds.\n", took.Seconds())
	return c.print(err)
}
