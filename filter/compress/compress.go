// Package compress is the filter that compresses whatever is written through it, where
// the format below stores compressed clusters.
package compress

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/pass"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/zero"
	"github.com/cowl-disk/cowl/opts"
)

var desc = driver.Desc{
	Name:        "compress",
	Kind:        driver.KindFilter,
	Children:    pass.Children(),
	Summary:     "Compresses what is written",
	OpenOptions: opts.SchemaOf(struct{}{}),
}

type compress struct{}

// New returns the driver "compress".
func New() driver.Driver { return compress{} }

// Desc implements driver.Driver.
func (compress) Desc() *driver.Desc { return &desc }

// target is a child that stores compressed clusters: an image of the block layer.
type target interface {
	driver.Storage
	// CanCompress says whether it can.
	CanCompress() bool
	Encode(dst, cluster []byte) ([]byte, bool, error)
	WriteEncoded(ctx context.Context, off int64, enc []byte) error
	AllocatedLayer(ctx context.Context, off, n int64) (bool, int64, error)
	Format() string
}

// Open implements driver.Driver.
func (compress) Open(_ context.Context, req *driver.OpenRequest) (driver.Node, error) {
	if err := desc.OpenOptions.Decode(req.Options, &struct{}{}); err != nil {
		return nil, err
	}
	t, ok := req.File.(target)
	if !ok || !t.CanCompress() {
		name := "(no format)"
		if ok {
			name = t.Format()
		}
		return nil, driver.Errorf(driver.ErrUnsupported, "compression is not supported for underlying format: %s", name)
	}
	return &node{pass.Node{Child: req.File}, t, t.Limits().ClusterSize}, nil
}

type node struct {
	pass.Node
	to      target
	cluster int64
}

// WriteAt implements driver.Storage: whole clusters that nothing was written to yet are
// compressed. Others are written as they are: a compressed cluster is not changed in
// place.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		pos := off + int64(done)
		q := p[done:]
		if in := pos % n.cluster; in != 0 {
			q = q[:min(int64(len(q)), n.cluster-in)]
		} else {
			q = q[:min(int64(len(q)), n.cluster)]
		}
		stored, err := n.writeCompressed(ctx, q, pos)
		if err == nil && !stored {
			_, err = n.Child.WriteAt(ctx, q, pos)
		}
		if err != nil {
			return done, err
		}
		done += len(q)
	}
	return len(p), nil
}

// writeCompressed stores p, at most one cluster, compressed if that is possible.
func (n *node) writeCompressed(ctx context.Context, p []byte, off int64) (bool, error) {
	whole := off%n.cluster == 0 && (int64(len(p)) == n.cluster || off+int64(len(p)) == n.Size())
	if !whole || zero.IsZero(p) {
		return false, nil
	}
	if there, _, err := n.to.AllocatedLayer(ctx, off, int64(len(p))); err != nil || there {
		return false, err
	}
	buf := bufpool.Get(int(n.cluster))
	defer bufpool.Put(buf)
	clear(buf[copy(buf, p):])
	enc, ok, err := n.to.Encode(nil, buf)
	if err != nil || !ok {
		return false, err
	}
	return true, n.to.WriteEncoded(ctx, off, enc)
}
