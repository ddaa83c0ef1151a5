package luks

import (
	"context"
	"math"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/crypto/luks"
	"github.com/cowl-disk/cowl/internal/cryptio"
	"github.com/cowl-disk/cowl/opts"
)

var desc = driver.Desc{
	Name: "luks",
	Kind: driver.KindFormat,
	Children: []driver.ChildDesc{
		{Role: "file", Use: driver.UseMetadata},
		{Role: "header", Use: driver.UseMetadata, Optional: true, ByDriver: true},
	},
	NoCompression: true,
	Summary:       "Encrypted disk with a LUKS header, versions 1 and 2",
	OpenOptions:   openSchema,
	CreateOptions: createSchema,
	AmendOptions:  amendSchema,
}

type luksDriver struct{}

// New returns the driver "luks".
func New() driver.Driver { return luksDriver{} }

var (
	_ driver.Prober   = luksDriver{}
	_ driver.Creator  = luksDriver{}
	_ driver.Measurer = luksDriver{}
)

// Desc implements driver.Driver.
func (luksDriver) Desc() *driver.Desc { return &desc }

// Probe implements driver.Prober.
func (luksDriver) Probe(head []byte, _ int64, _ string) int {
	if v := luks.Version(head); v == 1 || v == 2 {
		return 100
	}
	return 0
}

// Open implements driver.Driver.
func (luksDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	options := req.Options.Clone()
	header, detached, err := openHeader(ctx, req, options)
	if err != nil {
		return nil, err
	}
	var o openOptions
	if err := openSchema.Decode(options, &o); err != nil {
		return nil, err
	}
	var secret []byte
	if !req.Access.NoIO {
		if secret, err = passphrase(req.Env.Objects, o.KeySecret); err != nil {
			return nil, err
		}
	}
	h, err := luks.OpenWith(ctx, header, header.Size(), luks.OpenOptions{Detached: detached})
	if err != nil {
		return nil, failure(err)
	}
	if h.IVOffset > math.MaxInt64/sectorSize/2 {
		return nil, driver.Errorf(driver.ErrUnsupported, "LUKS2 volume begins with sector number %d, which is not supported", h.IVOffset)
	}
	h.Reserve = reserve(req.Env.Budget)
	n := &node{file: req.File, hdr: h, write: req.Access.Write, objects: req.Env.Objects}
	if !req.Access.NoIO {
		if err := n.unlock(ctx, secret); err != nil {
			return nil, failure(err)
		}
	}
	if err := n.checkSize(); err != nil {
		n.key.Wipe()
		return nil, err
	}
	return n, nil
}

// openHeader returns where the header is: in the child "header" if there is one.
func openHeader(ctx context.Context, req *driver.OpenRequest, options opts.Dict) (header driver.Storage, detached bool, err error) {
	_, given := options["header"]
	sub := options.Sub("header")
	switch {
	case given:
		return nil, false, driver.Errorf(driver.ErrUnsupported, "'header' cannot refer to a node by name here")
	case len(sub) == 0:
		return req.File, false, nil
	case req.Env.OpenChild == nil:
		return nil, false, driver.Errorf(driver.ErrUnsupported, "'header' cannot be opened here")
	}
	header, err = req.Env.OpenChild(ctx, driver.ChildRef{Role: "header", Options: sub, ReadOnly: !req.Access.Write})
	return header, true, err
}

// reserve takes the memory of key derivations from a budget.
func reserve(b *driver.Budget) func(n int64) (func(), error) {
	if b == nil {
		return nil
	}
	return func(n int64) (func(), error) {
		if err := b.Scratch("a LUKS key slot", n); err != nil {
			return nil, err
		}
		return func() { b.Release(n) }, nil
	}
}

func (n *node) unlock(ctx context.Context, secret []byte) error {
	key, err := n.hdr.Unlock(ctx, secret)
	if err != nil {
		return err
	}
	c, err := n.hdr.Cipher(key)
	if err != nil {
		key.Wipe()
		return err
	}
	n.key = key
	// Of two numbers that are multiples of the sector size each.
	n.data = cryptio.New(n.file, c, int64(n.hdr.IVOffset)*sectorSize-n.hdr.PayloadOffset)
	return nil
}

var errNoPayload = driver.Errorf(driver.ErrCorrupt, "could not refresh total sector count: %w", driver.Errorf(nil, "input/output error"))

// checkSize refuses payloads that begin or end beyond the end of the file.
func (n *node) checkSize() error {
	h := n.hdr
	switch {
	case h.PayloadOffset > roundUp(n.file.Size()):
		return errNoPayload
	case h.PayloadSize >= 0 && h.PayloadSize > n.file.Size()-h.PayloadOffset:
		return driver.Errorf(driver.ErrCorrupt, "LUKS2 segment of %d bytes at %d reaches beyond the end of the file", h.PayloadSize, h.PayloadOffset)
	}
	return nil
}
