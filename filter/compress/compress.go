// Package compress is the filter that compresses whatever is written through it, where
// the format below stores compressed clusters.
package compress

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/pass"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/rangelock"
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
	return &node{Node: pass.Node{Child: req.File}, to: t, cluster: t.Limits().ClusterSize}, nil
}

type node struct {
	pass.Node
	to      target
	cluster int64
	// changing orders changes of the same cluster: one that is compressed holds what the
	// rest of it was a moment before.
	changing rangelock.Locker
}

// WriteAt implements driver.Storage: clusters that nothing was written to yet are
// compressed, also if only a part of one is given. Others are written as they are: a
// compressed cluster is not changed in place.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		pos := off + int64(done)
		q := p[done:]
		q = q[:min(int64(len(q)), n.cluster-pos%n.cluster)]
		if err := n.writeCluster(ctx, q, pos); err != nil {
			return done, err
		}
		done += len(q)
	}
	return len(p), nil
}

// writeCluster writes p, which is in one cluster.
func (n *node) writeCluster(ctx context.Context, p []byte, off int64) error {
	held, err := n.changing.Lock(ctx, off-off%n.cluster, n.cluster, rangelock.Exclusive)
	if err != nil {
		return err
	}
	defer held.Unlock()
	stored, err := n.writeCompressed(ctx, p, off)
	if err == nil && !stored {
		_, err = n.Child.WriteAt(ctx, p, off)
	}
	return err
}

// writeCompressed stores the cluster with p in it compressed if that is possible.
func (n *node) writeCompressed(ctx context.Context, p []byte, off int64) (bool, error) {
	in := off % n.cluster
	start := off - in
	length := min(n.cluster, n.Size()-start)
	if in+int64(len(p)) > length {
		return false, nil
	}
	if free, err := n.unallocated(ctx, start, length); err != nil || !free {
		return false, err
	}
	buf := bufpool.Get(int(n.cluster))
	defer bufpool.Put(buf)
	clear(buf[length:])
	if int64(len(p)) < length {
		if _, err := n.Child.ReadAt(ctx, buf[:length], start); err != nil && err != io.EOF {
			return false, err
		}
	}
	copy(buf[in:], p)
	if zero.IsZero(buf) {
		return false, nil
	}
	enc, ok, err := n.to.Encode(nil, buf)
	if err != nil || !ok {
		return false, err
	}
	return true, n.to.WriteEncoded(ctx, start, enc)
}

// unallocated says whether nothing was written to a range.
func (n *node) unallocated(ctx context.Context, off, length int64) (bool, error) {
	for length > 0 {
		there, m, err := n.to.AllocatedLayer(ctx, off, length)
		if err != nil || there {
			return false, err
		}
		if m == 0 {
			break
		}
		off, length = off+m, length-m
	}
	return true, nil
}

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	held, err := n.hold(ctx, off, length)
	if err != nil {
		return err
	}
	defer held.Unlock()
	return n.Node.WriteZeroes(ctx, off, length, flags)
}

// Discard implements driver.Discarder.
func (n *node) Discard(ctx context.Context, off, length int64) error {
	held, err := n.hold(ctx, off, length)
	if err != nil {
		return err
	}
	defer held.Unlock()
	return n.Node.Discard(ctx, off, length)
}

// hold holds the clusters that a range touches.
func (n *node) hold(ctx context.Context, off, length int64) (*rangelock.Held, error) {
	in := off % n.cluster
	return n.changing.Lock(ctx, off-in, max(in+length, 1), rangelock.Exclusive)
}
