package qemuio

import (
	"time"

	"github.com/cowl-disk/cowl/internal/cli/program"
)

func asyncCommands() []*command {
	return []*command{
		{name: "aio_read", min: 2, max: -1, args: "[-Ciqrv] [-P pattern] off len [len..]", about: "asynchronously reads a number of bytes", run: (*session).aioRead,
			help: ` Begins to read. aio_flush waits until it is done; an error does not fail the command.
 -i counts a request as invalid; the other options are those of readv.
`},
		{name: "aio_write", min: 2, max: -1, writes: true, args: "[-Cfiqruz] [-P pattern] off len [len..]", about: "asynchronously writes a number of bytes", run: (*session).aioWrite,
			help: ` Begins to write. aio_flush waits until it is done; an error does not fail the command.
 -i counts a request as invalid; the other options are those of write.
`},
		{name: "aio_flush", about: "completes all outstanding aio requests", run: func(s *session, _ *command, _ []string) error {
			s.drain()
			return nil
		}},
	}
}

// drain waits until all requests are done. Those at breakpoints go on if the program is
// interrupted.
func (s *session) drain() {
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return
	case <-s.ctx.Done():
	}
	if b := s.breaker(); b != nil {
		b.Release()
	}
	<-done
}

// begin runs a request beside what comes next. Without a breakpoint nothing can be seen of
// that, and the request is done when the command is: what it prints is in order.
func (s *session) begin(request func()) {
	if !s.breakpoints {
		request()
		return
	}
	done := make(chan struct{})
	s.running.Go(func() {
		defer close(done)
		request()
	})
	// One that stops at a breakpoint, or waits for one that has, gets no further.
	select {
	case <-done:
	case <-time.After(50 * time.Millisecond):
	}
}

func (s *session) aioRead(c *command, args []string) error {
	var o ioOptions
	var invalid bool
	operands, err := s.parse(c, args, 0, -1, o.machineFlag(), o.quietFlag(), o.verboseFlag(), registerFlag(), s.patternOption(&o), program.Flag(&invalid, "-i", ""))
	if err != nil {
		return err
	}
	if invalid {
		s.printf("injecting invalid read request\n")
		return nil
	}
	if len(operands) < 2 {
		return s.usage(c)
	}
	off, err := s.number(operands[0])
	if err != nil {
		return err
	}
	n, err := s.lengths(operands[1:])
	if err != nil {
		return err
	}
	s.begin(func() {
		p, took, err := s.readInto(&o, off, n)
		if err != nil {
			s.failf("readv failed: %s", reason(err))
			return
		}
		s.readDone(o, p, off, 0, n, took)
	})
	return nil
}

func (s *session) aioWrite(c *command, args []string) error {
	var o writeOptions
	var invalid bool
	operands, err := s.parse(c, args, 0, -1, o.machineFlag(), o.quietFlag(), registerFlag(), s.patternOption(&o.ioOptions), program.Flag(&invalid, "-i", ""),
		program.Flag(&o.force, "-f", ""), program.Flag(&o.unmap, "-u", ""), program.Flag(&o.zero, "-z", ""))
	if err != nil {
		return err
	}
	switch {
	case invalid:
		s.printf("injecting invalid write request\n")
		return nil
	case len(operands) < 2:
		return s.usage(c)
	case o.zero && len(operands) != 2:
		return s.failf("-z supports only a single length parameter")
	case o.unmap && !o.zero:
		return s.failf("-u requires -z to be specified")
	case o.zero && o.pattern >= 0:
		return s.failf("-z and -P cannot be specified at the same time")
	}
	off, err := s.number(operands[0])
	if err != nil {
		return err
	}
	var p []byte
	var n int64
	if o.zero {
		n, err = s.number(operands[1])
	} else if n, err = s.lengths(operands[1:]); err == nil {
		p, err = s.source(&o, n)
	}
	if err != nil {
		return err
	}
	s.begin(func() {
		start := time.Now()
		if err := s.send(&o, p, off, n); err != nil {
			s.failf("aio_write failed: %s", reason(err))
			return
		}
		if !o.quiet {
			s.report("wrote", time.Since(start), off, n, o.machine)
		}
	})
	return nil
}
