package qemuio

import (
	"slices"
	"strconv"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/qapi"
)

func otherCommands() []*command {
	return []*command{
		{name: "help", alias: "?", max: 1, anytime: true, args: "[command]", about: "help for one or all commands", run: (*session).helpAbout},
		{name: "quit", alias: "q", max: -1, anytime: true, about: "exit the program", run: func(s *session, _ *command, _ []string) error {
			s.quit = true
			return nil
		}},
		{name: "flush", alias: "f", about: "flush all in-core file state to disk", run: func(s *session, _ *command, _ []string) error {
			if s.img.Flush(s.ctx) != nil {
				return errFailed // QEMU says nothing of it
			}
			return nil
		}},
		{name: "truncate", alias: "t", min: 1, max: 3, writes: true, args: "[-m prealloc_mode] off", about: "truncates the current file at the given offset", run: (*session).truncate},
		{name: "length", alias: "l", about: "gets the length of the current file", run: func(s *session, _ *command, _ []string) error {
			s.printf("%s\n", amount(float64(s.img.Size())))
			return nil
		}},
		{name: "info", alias: "i", about: "prints information about the current file", run: (*session).info},
		{name: "discard", alias: "d", min: 2, max: -1, writes: true, args: "[-Cq] off len", about: "discards a number of bytes at a specified offset", run: (*session).discard,
			help: ` 'discard 512 1k' gives up 1 KiB that begins at byte 512.

 -C  print the figures as numbers with commas between them
 -q  print no figures
`},
		{name: "alloc", alias: "a", min: 1, max: 2, args: "offset [count]", about: "checks if offset is allocated in the file", run: (*session).alloc},
		{name: "map", about: "prints the allocated areas of a file", run: (*session).allocMap},
		{name: "sleep", min: 1, max: 1, anytime: true, about: "waits for the given value in milliseconds", run: (*session).sleep},
	}
}

func (s *session) truncate(c *command, args []string) error {
	mode := driver.PreallocOff
	operands, err := s.parse(c, args, 1, -1, program.Func("-m MODE", "", func(arg string) error {
		switch mode = driver.Prealloc(arg); mode {
		case driver.PreallocOff, driver.PreallocMetadata, driver.PreallocFalloc, driver.PreallocFull:
			return nil
		}
		return s.errorf("Invalid preallocation mode '%s'", arg)
	}))
	if err != nil {
		return err
	}
	size, err := s.number(operands[0])
	if err != nil {
		return err
	}
	if err := s.img.Resize(s.ctx, size, driver.ResizeOptions{Prealloc: mode, Exact: true}); err != nil {
		return s.errorf("%s", words.Text(err))
	}
	return nil
}

// clustered are the protocols of which QEMU tells the size of clusters, although most have none.
var clustered = []string{"file", "host_device", "host_cdrom", "iscsi", "rbd"}

func (s *session) info(*command, []string) error {
	name := s.img.Format()
	s.printf("format name: %s\n", name)
	if s.img.Tree().Driver().Desc().Kind == driver.KindProtocol {
		s.printf("format name: %s\n", name)
		if !slices.Contains(clustered, name) {
			return errFailed // QEMU says nothing of it
		}
	}
	info, err := s.img.Info(s.ctx)
	if err != nil {
		return s.errorf("%s", words.Text(err))
	}
	s.printf("cluster size: %s\nvm state offset: %s\n", amount(float64(s.img.Limits().ClusterSize)), amount(float64(info.VMStateOffset)))
	return s.specific(info.Specific)
}

func (s *session) specific(data *qapi.ImageInfoSpecific) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return render.Specific(s.Stdout, data)
}

func (s *session) discard(c *command, args []string) error {
	var o ioOptions
	operands, err := s.parse(c, args, 2, 2, o.machineFlag(), o.quietFlag())
	if err != nil {
		return err
	}
	off, n, err := s.offsetAndLength(operands)
	if err != nil {
		return err
	}
	if n > maxRequest {
		return s.failf("length cannot exceed %d, given %s", maxRequest, operands[1])
	}
	start := time.Now()
	if err := s.img.Discard(s.ctx, off, n); err != nil {
		return s.failf("discard failed: %s", reason(err))
	}
	if !o.quiet {
		s.report("discard", time.Since(start), off, n, o.machine)
	}
	return nil
}

// allocated tells whether off is allocated in the image itself, and for how many bytes of
// n that holds; 0 at the end.
func (s *session) allocated(off, n int64) (bool, int64, error) {
	n = min(n, s.img.Size()-off)
	if n <= 0 {
		return false, 0, nil
	}
	return s.img.AllocatedLayer(s.ctx, off, n)
}

func (s *session) alloc(_ *command, args []string) error {
	off, err := s.number(args[0])
	if err != nil {
		return err
	}
	count := int64(512)
	if len(args) > 1 {
		if count, err = s.number(args[1]); err != nil {
			return err
		}
	}
	sum, at := int64(0), off
	for left := count; left > 0; {
		is, n, err := s.allocated(at, left)
		if err != nil {
			return s.failf("is_allocated failed: %s", reason(err))
		}
		if n == 0 {
			count -= left
			break
		}
		if is {
			sum += n
		}
		at, left = at+n, left-n
	}
	s.printf("%d/%d bytes allocated at offset %s\n", sum, count, amount(float64(off)))
	return nil
}

func (s *session) allocMap(*command, []string) error {
	for off, size := int64(0), s.img.Size(); off < size; {
		is, n, err := s.allocated(off, size-off)
		for err == nil && off+n < size {
			var next bool
			var more int64
			if next, more, err = s.allocated(off+n, size-off-n); next != is || more == 0 {
				break
			}
			n += more
		}
		switch {
		case err != nil:
			return s.errorf("Failed to get allocation status: %s", reason(err))
		case n == 0:
			return s.errorf("Unexpected end of image")
		}
		state := "not allocated"
		if is {
			state = "    allocated"
		}
		s.printf("%s (%#x) bytes %s at offset %s (%#x)\n", amount(float64(n)), n, state, amount(float64(off)), off)
		off += n
	}
	return nil
}

func (s *session) sleep(_ *command, args []string) error {
	ms, err := strconv.ParseInt(args[0], 0, 64)
	if err != nil || ms < 0 {
		return s.failf("%s is not a valid number", args[0])
	}
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
	case <-s.ctx.Done():
	}
	return nil
}
