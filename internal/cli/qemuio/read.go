package qemuio

import (
	"bytes"
	"errors"
	"strconv"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/internal/resources"
)

// unread is what a buffer holds before a read, so that what was not read shows.
const unread = 0xab

// ioOptions are the options that requests have in common.
type ioOptions struct {
	machine, quiet, verbose bool
	vmstate                 bool
	pattern                 int // -1: none is given
	// start and length bound what is compared with the pattern; nil: not given.
	start, length *int64
}

func (o *ioOptions) machineFlag() program.Option {
	return program.Flag(&o.machine, "-C", "print the figures for a program to read")
}

func (o *ioOptions) quietFlag() program.Option {
	return program.Flag(&o.quiet, "-q", "print no figures")
}

func (o *ioOptions) verboseFlag() program.Option {
	return program.Flag(&o.verbose, "-v", "print the bytes")
}

// registerFlag is taken without effect: buffers are not registered with the kernel here.
func registerFlag() program.Option {
	var ignored bool
	return program.Flag(&ignored, "-r", "register the buffer")
}

func (s *session) patternOption(o *ioOptions) program.Option {
	o.pattern = -1
	return program.Func("-P PATTERN", "the byte that the buffer is filled with", func(arg string) error {
		n, err := strconv.ParseInt(arg, 0, 64)
		if err != nil || n < 0 || n > 255 {
			return s.failf("%s is not a valid pattern byte", arg)
		}
		o.pattern = int(n)
		return nil
	})
}

func (s *session) numberOption(spelling, help string, v **int64) program.Option {
	return program.Func(spelling, help, func(arg string) error {
		n, err := s.number(arg)
		*v = &n
		return err
	})
}

func readCommands() []*command {
	return []*command{
		{name: "read", alias: "r", min: 2, max: -1, args: "[-abCqrv] [-P pattern [-s off] [-l len]] off len", about: "reads a number of bytes at a specified offset", run: (*session).read,
			help: ` 'read -v 512 1k' reads 1 KiB that begins at byte 512, and prints it.

 -b  read the state of the virtual machine instead of the disk
 -C  print the figures as numbers with commas between them
 -P  compare what is read with this byte
 -s  where in what is read the comparison begins
 -l  how many bytes are compared
 -q  print no figures
 -v  print the bytes
 -p, -r  taken, and without effect
`},
		{name: "readv", min: 2, max: -1, args: "[-Cqrv] [-P pattern] off len [len..]", about: "reads a number of bytes at a specified offset", run: (*session).readv,
			help: ` 'readv -v 512 1k 1k' reads 2 KiB that begin at byte 512 into two buffers.
 The options are those of read.
`},
	}
}

func (s *session) read(c *command, args []string) error {
	var o ioOptions
	var ignored bool
	operands, err := s.parse(c, args, 2, 2, o.machineFlag(), o.quietFlag(), o.verboseFlag(), registerFlag(), s.patternOption(&o),
		program.Flag(&ignored, "-p", ""), program.Flag(&o.vmstate, "-b", ""),
		s.numberOption("-s OFF", "", &o.start), s.numberOption("-l LEN", "", &o.length))
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
	if o.pattern < 0 && (o.start != nil || o.length != nil) {
		return s.usage(c)
	}
	from, count := int64(0), n
	if o.start != nil {
		from = *o.start
		count = n - from
	}
	if o.length != nil {
		count = *o.length
	}
	if count < 0 || from > n || count > n-from {
		return s.failf("pattern verification range exceeds end of read data")
	}
	if o.vmstate {
		if err := s.aligned(off, n); err != nil {
			return err
		}
	}
	p, took, err := s.readInto(&o, off, n)
	if err != nil {
		return s.failf("read failed: %s", reason(err))
	}
	return s.readDone(o, p, off, from, count, took)
}

func (s *session) readv(c *command, args []string) error {
	var o ioOptions
	operands, err := s.parse(c, args, 2, -1, o.machineFlag(), o.quietFlag(), o.verboseFlag(), registerFlag(), s.patternOption(&o))
	if err != nil {
		return err
	}
	off, err := s.number(operands[0])
	if err != nil {
		return err
	}
	n, err := s.lengths(operands[1:])
	if err != nil {
		return err
	}
	p, took, err := s.readInto(&o, off, n)
	if err != nil {
		return s.failf("readv failed: %s", reason(err))
	}
	return s.readDone(o, p, off, 0, n, took)
}

// readInto reads n bytes at off.
func (s *session) readInto(o *ioOptions, off, n int64) ([]byte, time.Duration, error) {
	p, err := buffer(n, unread)
	if err != nil {
		return nil, 0, err
	}
	start := time.Now()
	if o.vmstate {
		err = s.img.ReadVMState(s.ctx, p, off)
	} else {
		_, err = s.img.ReadAt(s.ctx, p, off)
	}
	return p, time.Since(start), err
}

// readDone compares what was read, as far as that is asked, and tells of it.
func (s *session) readDone(o ioOptions, p []byte, off, from, count int64, took time.Duration) error {
	var err error
	if o.pattern >= 0 && !bytes.Equal(p[from:from+count], bytes.Repeat([]byte{byte(o.pattern)}, int(count))) {
		err = s.failf("Pattern verification failed at offset %d, %d bytes", off+from, count)
	}
	if o.quiet {
		return err
	}
	if o.verbose {
		s.dump(p, off)
	}
	s.report("read", took, off, int64(len(p)), o.machine)
	return err
}

// buffer returns n bytes filled with pattern.
func buffer(n int64, pattern byte) ([]byte, error) {
	if err := resources.Claim(n); err != nil {
		return nil, err
	}
	p := make([]byte, n)
	if pattern != 0 {
		for i := range p {
			p[i] = pattern
		}
	}
	return p, nil
}

// reason is the system's text for why a request failed.
func reason(err error) string {
	var no syscall.Errno
	switch {
	case errors.As(err, &no):
		return words.Strerror(no)
	case errors.Is(err, driver.ErrUnsupported):
		return words.Strerror(syscall.ENOTSUP)
	case errors.Is(err, driver.ErrReadOnly):
		return words.Strerror(syscall.EPERM)
	case errors.Is(err, driver.ErrInvalid):
		return words.Strerror(syscall.EINVAL)
	}
	return words.Strerror(syscall.EIO)
}
