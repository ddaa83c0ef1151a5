package qemuio

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/words"
)

// written is what is written where no byte is given.
const written = 0xcd

func writeCommands() []*command {
	return []*command{
		{name: "write", alias: "w", min: 2, max: -1, writes: true, args: "[-bcCfnqruz] [-P pattern | -s source_file] off len", about: "writes a number of bytes at a specified offset", run: (*session).write,
			help: ` 'write -P 1 512 1k' writes 1 KiB of the byte 1 at byte 512. The byte is 0xcd if none is given.

 -b  write the state of the virtual machine instead of the disk
 -c  store compressed clusters
 -C  print the figures as numbers with commas between them
 -f  flush the write before it is done (FUA)
 -P  the byte to write
 -s  a file with the bytes to write, again and again if it is shorter
 -z  write zeroes without sending them
 -u  with -z: the room may be given up
 -n  with -z: fail where that is no faster than writing zeroes
 -q  print no figures
 -p, -r  taken, and without effect
`},
		{name: "writev", min: 2, max: -1, writes: true, args: "[-Cfqr] [-P pattern] off len [len..]", about: "writes a number of bytes at a specified offset", run: (*session).writev,
			help: ` 'writev 512 1k 1k' writes 2 KiB at byte 512 from two buffers.
 The options are those of write.
`},
	}
}

// writeOptions are the options of writes.
type writeOptions struct {
	ioOptions
	compressed, force, zero, unmap, fast bool
	source                               *string
}

func (s *session) write(c *command, args []string) error {
	var o writeOptions
	var ignored bool
	operands, err := s.parse(c, args, 2, 2, o.machineFlag(), o.quietFlag(), registerFlag(), s.patternOption(&o.ioOptions),
		program.Flag(&ignored, "-p", ""), program.Flag(&o.vmstate, "-b", ""), program.Flag(&o.compressed, "-c", ""), program.Flag(&o.force, "-f", ""),
		program.Flag(&o.fast, "-n", ""), program.Flag(&o.unmap, "-u", ""), program.Flag(&o.zero, "-z", ""), program.Given(&o.source, "-s FILE", ""))
	if err != nil {
		return err
	}
	if err := s.consistent(&o); err != nil {
		return err
	}
	off, n, err := s.offsetAndLength(operands)
	if err != nil {
		return err
	}
	if n > maxRequest && !o.fast {
		return s.failf("length cannot exceed %d without -n, given %s", maxRequest, operands[1])
	}
	if o.vmstate || o.compressed {
		if err := s.aligned(off, n); err != nil {
			return err
		}
	}
	var p []byte
	if !o.zero {
		if p, err = s.source(&o, n); err != nil {
			return err
		}
	}
	start := time.Now()
	if err := s.send(&o, p, off, n); err != nil {
		return s.failf("write failed: %s", reason(err))
	}
	if !o.quiet {
		s.report("wrote", time.Since(start), off, n, o.machine)
	}
	return nil
}

// consistent refuses options that exclude one another.
func (s *session) consistent(o *writeOptions) error {
	ways := 0
	for _, given := range []bool{o.zero, o.pattern >= 0, o.source != nil} {
		if given {
			ways++
		}
	}
	switch {
	case o.vmstate && o.zero:
		return s.failf("-b and -z cannot be specified at the same time")
	case o.force && (o.vmstate || o.compressed):
		return s.failf("-f and -b or -c cannot be specified at the same time")
	case o.fast && !o.zero:
		return s.failf("-n requires -z to be specified")
	case o.unmap && !o.zero:
		return s.failf("-u requires -z to be specified")
	case ways > 1:
		return s.failf("Only one of -z, -P, and -s can be specified at the same time")
	}
	return nil
}

// source makes what is to be written.
func (s *session) source(o *writeOptions, n int64) ([]byte, error) {
	pattern := o.pattern
	if pattern < 0 {
		pattern = written
	}
	if o.source == nil {
		p, err := buffer(n, byte(pattern))
		if err != nil {
			return nil, s.errorf("%s", words.Text(err))
		}
		return p, nil
	}
	f, err := os.Open(*o.source)
	if err != nil {
		return nil, s.fault("%s: %s", *o.source, words.System(err))
	}
	defer f.Close()
	p, err := buffer(n, 0)
	if err != nil {
		return nil, s.errorf("%s", words.Text(err))
	}
	have, err := io.ReadFull(f, p)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
		return nil, s.fault("%s: %s", *o.source, words.System(err))
	}
	if have == 0 && n > 0 {
		return nil, s.fault("%s: file is empty", *o.source)
	}
	for at := have; at > 0 && at < len(p); at += have {
		copy(p[at:], p[:have])
	}
	return p, nil
}

// send does one write.
func (s *session) send(o *writeOptions, p []byte, off, n int64) error {
	var err error
	switch {
	case o.zero:
		flags := driver.ZeroFlags(0)
		if o.unmap {
			flags |= driver.ZeroMayUnmap
		}
		if o.fast {
			flags |= driver.ZeroNoFallback
		}
		err = s.img.WriteZeroes(s.ctx, off, n, flags)
	case o.vmstate:
		err = s.img.WriteVMState(s.ctx, p, off)
	case o.compressed:
		err = s.writeCompressed(p, off)
	default:
		_, err = s.img.WriteAt(s.ctx, p, off)
	}
	if err == nil && o.force {
		err = s.img.Flush(s.ctx)
	}
	return err
}

// writeCompressed stores whole clusters compressed; the last one of the disk may be
// shorter. What does not get smaller is stored as it is.
func (s *session) writeCompressed(p []byte, off int64) error {
	if !s.img.CanCompress() {
		return driver.ErrUnsupported
	}
	size := s.img.Limits().ClusterSize
	if end := off + int64(len(p)); off%size != 0 || end%size != 0 && end != s.img.Size() {
		return syscall.EINVAL
	}
	padded := make([]byte, size)
	for len(p) > 0 {
		part := p[:min(int64(len(p)), size)]
		cluster := part
		if int64(len(part)) < size {
			clear(padded[copy(padded, part):])
			cluster = padded
		}
		enc, ok, err := s.img.Encode(nil, cluster)
		switch {
		case err != nil:
			return err
		case ok:
			if err = s.img.WriteEncoded(s.ctx, off, enc); errors.Is(err, driver.ErrInvalid) {
				err = syscall.EIO // there is a cluster already
			}
		default:
			_, err = s.img.WriteAt(s.ctx, part, off)
		}
		if err != nil {
			return err
		}
		p, off = p[len(part):], off+int64(len(part))
	}
	return nil
}

func (s *session) writev(c *command, args []string) error {
	var o writeOptions
	operands, err := s.parse(c, args, 2, -1, o.machineFlag(), o.quietFlag(), registerFlag(), s.patternOption(&o.ioOptions), program.Flag(&o.force, "-f", ""))
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
	p, err := s.source(&o, n)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := s.send(&o, p, off, n); err != nil {
		return s.failf("writev failed: %s", reason(err))
	}
	if !o.quiet {
		s.report("wrote", time.Since(start), off, n, o.machine)
	}
	return nil
}
