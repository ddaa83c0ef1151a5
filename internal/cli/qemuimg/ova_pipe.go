package qemuimg

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/ova"
)

// isPipe says whether a name is that of something that can be read only once: a pipe, a socket, a terminal.
func isPipe(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode()&(os.ModeNamedPipe|os.ModeSocket|os.ModeCharDevice) != 0
}

// pipedOVA splits the name of a disk in an appliance that is a pipe: "PIPE:DISK", as "/dev/stdin:1".
func (c *call) pipedOVA(name string) (archive, disk string, ok bool) {
	i := strings.LastIndexByte(name, ':')
	if !c.cowl() || i < 0 || !isPipe(name[:i]) {
		return "", "", false
	}
	return name[:i], name[i+1:], true
}

// openPipe opens a pipe, "-" for the standard input. Waiting for its other end, and for data, ends with the context.
func (c *call) openPipe(name string) (io.Reader, func(), error) {
	if name == "-" {
		return newCancelReader(c.ctx, c.Stdin), func() {}, nil
	}
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.Open(name)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return nil, nil, openError(name, o.err)
		}
		return newCancelReader(c.ctx, o.f), func() { o.f.Close() }, nil
	case <-c.ctx.Done():
		return nil, nil, c.ctx.Err()
	}
}

// listPiped is list for an appliance that is read once.
func (a *appliance) listPiped(name string) int {
	r, done, err := a.openPipe(name)
	if err != nil {
		return a.fail(err)
	}
	defer done()
	app, check, err := ova.ReadStream(a.ctx, r, a.check)
	if err != nil {
		return a.fail(openError(name, err))
	}
	return a.show(app, check)
}

// pipedDisk is a disk of an appliance that is read once.
type pipedDisk struct {
	io.Reader
	size int64
	pipe io.Reader
	done func()
}

// close ends reading. Of a pipe that was read without error the rest is read, too, so that who writes it does not fail.
func (d *pipedDisk) close(rest bool) (err error) {
	defer d.done()
	if rest {
		_, err = io.Copy(io.Discard, d.pipe)
	}
	return err
}

// openPiped goes to a disk of an appliance.
func (c *call) openPiped(archive, name string) (_ *pipedDisk, err error) {
	pipe, done, err := c.openPipe(archive)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	d, file, err := ova.DiskStream(c.ctx, pipe, name)
	if err != nil {
		return nil, openError(archive, err)
	}
	p := &pipedDisk{pipe: pipe, done: done}
	if p.size, p.Reader, err = c.readSequential(file); err != nil {
		return nil, openError(archive+":"+name, err)
	}
	if d.Capacity > 0 && d.Capacity != p.size {
		c.warnf("the descriptor says that the disk '%s' has %d bytes, its file %d", d.ID, d.Capacity, p.size)
	}
	return p, nil
}

// readSequential finds the driver of an image that is read once, by its first bytes or by the format that was given.
func (c *call) readSequential(file io.Reader) (int64, io.Reader, error) {
	in := bufio.NewReaderSize(file, 4096)
	head, err := in.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, nil, err
	}
	for _, d := range c.reg.Drivers() {
		s, ok := d.(driver.SequentialReader)
		p, ok2 := d.(driver.Prober)
		if ok && (c.format == d.Desc().Name || c.format == "" && ok2 && p.Probe(head, 0, "") == 100) {
			return s.ReadSequential(c.ctx, in)
		}
	}
	if c.format != "" {
		return 0, nil, fmt.Errorf("images in the format %s cannot be read from a pipe: store the appliance first", c.format)
	}
	return 0, nil, errors.New("its file is in no format that can be read from a pipe: store the appliance first")
}
