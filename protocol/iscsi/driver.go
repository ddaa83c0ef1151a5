package iscsi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/inet"
	"github.com/cowl-disk/cowl/internal/readahead"
	"github.com/cowl-disk/cowl/iscsi"
	"github.com/cowl-disk/cowl/opts"
)

const (
	sectorSize = 512

	// farAway is from which round trip on a disk that is read in order is read ahead, and depth
	// how many pieces are.
	farAway = 2 * time.Millisecond
	depth   = 64
)

var desc = driver.Desc{
	Name:        "iscsi",
	Kind:        driver.KindProtocol,
	Schemes:     []string{"iscsi", "iser"},
	Summary:     "Logical units of iSCSI targets",
	OpenOptions: openSchema,
	// A target has what it has: creating means to check that the unit is large enough.
	CreateOptions: opts.SchemaOf(struct{}{}),
}

// New returns the driver "iscsi".
func New() driver.Driver { return iscsiDriver{} }

type iscsiDriver struct{}

var (
	_ driver.FilenameParser = iscsiDriver{}
	_ driver.Creator        = iscsiDriver{}
)

// Desc implements driver.Driver.
func (iscsiDriver) Desc() *driver.Desc { return &desc }

// ParseFilename implements driver.FilenameParser.
func (iscsiDriver) ParseFilename(name string) (opts.Dict, error) { return parseName(name) }

// Open implements driver.Driver.
func (iscsiDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	o, err := decode(req.Options, req.Env)
	if err != nil {
		return nil, err
	}
	cfg, err := o.config(req.Env)
	if err != nil {
		return nil, err
	}
	n := &node{opt: o, login: loginOf(&cfg), env: req.Env, write: req.Access.Write, noFlush: req.Cache.NoFlush}
	cfg.Dial, cfg.Ready = dial, n.again
	if n.session = n.login.take(req.Env, n.again); n.session == nil {
		if n.session, err = iscsi.Open(ctx, cfg); err != nil {
			return nil, openError(ctx, err)
		}
	}
	n.lun = iscsi.LUN{Doer: n.session, Number: uint32(o.LUN)}
	if err := n.open(ctx, req.Env); err != nil {
		_ = n.session.Close(ctx)
		return nil, err
	}
	if req.Sequential && !n.write && n.roundTrip >= farAway {
		n.ahead = readahead.New(readahead.Config{Window: piece, Ahead: depth, Keep: 2 * depth, Eager: true, Size: n.Size, Read: n.fetch})
		n.ahead.Until(0) // Map tells what is worth it
	}
	return n, nil
}

// dial connects, with errors that say no more than the reason.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := inet.Dial(ctx, network, address)
	var no syscall.Errno
	switch {
	case err == nil:
		return nc, nil
	case errors.As(err, &no):
		return nil, no
	}
	if reason := inet.Reason(err); reason != nil {
		err = reason
	}
	return nil, err
}

func openError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var kind error
	var refused *iscsi.LoginError
	var sense *iscsi.SenseError
	switch {
	case errors.As(err, &refused) && refused.Status() == 0x0203, errors.As(err, &sense) && sense.NoUnit():
		kind = driver.ErrNotExist
	case errors.Is(err, iscsi.ErrTimeout):
		kind = driver.ErrTimeout
	}
	return driver.Errorf(kind, "iSCSI: failed to connect to LUN : %w", err)
}

// open asks the unit what it is.
func (n *node) open(ctx context.Context, env *driver.Env) error {
	began := time.Now()
	if err := n.lun.TestUnitReady(ctx); err != nil {
		var sense *iscsi.SenseError
		if !errors.As(err, &sense) || !sense.NoMedium() {
			return openError(ctx, err)
		}
		return driver.Errorf(nil, "iSCSI: the drive is empty: %w", err)
	}
	n.roundTrip = time.Since(began)
	// Side by side: the target may be far away.
	var what *iscsi.Inquiry
	var mode *iscsi.Mode
	var whatErr, sizeErr, modeErr, pagesErr error
	var wg sync.WaitGroup
	wg.Go(func() { what, whatErr = n.lun.Inquiry(ctx) })
	wg.Go(func() { sizeErr = n.measure(ctx) })
	wg.Go(func() { mode, modeErr = n.lun.Mode(ctx) })
	wg.Go(func() { pagesErr = n.pages(ctx) })
	wg.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case whatErr != nil:
		return openError(ctx, whatErr)
	case what.Type != iscsi.TypeDisk && what.Type != iscsi.TypeROM:
		n.capacity = iscsi.Capacity{BlockSize: sectorSize} // as QEMU: without contents
	case sizeErr != nil:
		return sizeErr
	}
	n.mode = iscsi.Mode{WriteCache: true}
	if modeErr == nil {
		n.mode = *mode
	} else if env != nil && env.Warn != nil {
		env.Warn("iSCSI: Failed MODE_SENSE(6), LUN assumed writable")
	}
	if n.write && (n.mode.WriteProtected || what.Type == iscsi.TypeROM) {
		return driver.Errorf(syscall.EACCES, "LUN is write protected")
	}
	return pagesErr
}

// measure asks for the size.
func (n *node) measure(ctx context.Context) error {
	c, err := n.lun.Capacity(ctx)
	if err != nil {
		return openError(ctx, err)
	}
	if c.BlockSize == 0 || c.BlockSize%sectorSize != 0 || c.BlockSize&(c.BlockSize-1) != 0 || c.BlockSize > maxBlock {
		return driver.Errorf(driver.ErrUnsupported, "iSCSI: the target returned an invalid block size of %d", c.BlockSize)
	}
	if c.Blocks > (1<<63-1)/uint64(c.BlockSize) {
		return driver.Errorf(driver.ErrTooLarge, "iSCSI: the target says that the unit has %d blocks of %d bytes", c.Blocks, c.BlockSize)
	}
	n.capacity = *c
	return nil
}

// maxBlock is the largest size of a block, in bytes.
const maxBlock = 1 << 20

// pages asks for the product data that the unit has.
func (n *node) pages(ctx context.Context) error {
	list, err := n.lun.Page(ctx, iscsi.PageSupported)
	if err != nil { // very old ones have none
		return ctx.Err()
	}
	var wg sync.WaitGroup
	for page, take := range map[byte]func(b []byte){
		iscsi.PageLimits:       func(b []byte) { n.limits = *iscsi.ParseLimits(b) },
		iscsi.PageProvisioning: func(b []byte) { n.thin = *iscsi.ParseProvisioning(b) },
		iscsi.PageDevice:       func(b []byte) { n.identity = string(b) },
	} {
		if slices.Contains(list, page) {
			wg.Go(func() {
				if b, err := n.lun.Page(ctx, page); err == nil { // what it does not tell it does not have
					take(b)
				}
			})
		}
	}
	wg.Wait()
	return ctx.Err()
}

// again prepares a connection that was made after a loss: the unit has to be the same, and
// what may be lost is written again.
func (n *node) again(ctx context.Context, d iscsi.Doer) error {
	l := iscsi.LUN{Doer: d, Number: n.lun.Number}
	if err := l.TestUnitReady(ctx); err != nil {
		return err
	}
	if n.capacity.Blocks > 0 {
		c, err := l.Capacity(ctx)
		if err != nil {
			return err
		}
		if c.Blocks != n.capacity.Blocks || c.BlockSize != n.capacity.BlockSize {
			return fmt.Errorf("the unit has %d blocks of %d bytes now, not %d of %d", c.Blocks, c.BlockSize, n.capacity.Blocks, n.capacity.BlockSize)
		}
	}
	if n.identity != "" {
		b, err := l.Page(ctx, iscsi.PageDevice)
		if err != nil {
			return err
		}
		if string(b) != n.identity {
			return errors.New("the unit is another one now")
		}
	}
	return n.journal.replay(ctx, l, n.block())
}

// Create implements driver.Creator: the unit must be there and large enough. Its first
// sector is cleared, so that nothing recognises what was on it.
func (d iscsiDriver) Create(ctx context.Context, req *driver.CreateRequest) (err error) {
	o, err := parseName(req.Filename)
	if err != nil {
		return err
	}
	open, err := d.Open(ctx, &driver.OpenRequest{Name: req.Filename, Options: o, Access: driver.Access{Write: true}, Env: req.Env})
	if err != nil {
		return driver.Errorf(nil, "protocol driver 'iscsi' does not support creating new images, so an existing image must be selected as the target; however, opening the given target as an existing image failed: %w", err)
	}
	n := open.(*node)
	defer func() { err = errors.Join(err, n.Close(ctx)) }()
	if req.Size > n.Size() {
		return driver.Errorf(driver.ErrUnsupported, "cannot grow iSCSI devices")
	}
	p := make([]byte, min(n.Size(), int64(n.capacity.BlockSize)))
	if len(p) == 0 {
		return nil
	}
	if _, err := n.ReadAt(ctx, p, 0); err != nil {
		return err
	}
	clear(p[:min(len(p), sectorSize)])
	if _, err := n.WriteAt(ctx, p, 0); err != nil {
		return err
	}
	return n.Flush(ctx)
}
