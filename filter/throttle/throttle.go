// Package throttle is the filter that bounds how many requests and bytes a second go
// through it. The limits are those of a throttle group, an object that several nodes
// may name: together they stay below its limits.
//
// A limit is a leaky bucket (QEMU's docs/throttle.txt): units flow out at the average
// rate, and a request waits while the bucket is full. Without a burst the bucket holds a
// tenth of a second's units. With one it holds what the burst rate allows for the length
// of the burst, and a second bucket bounds the rate meanwhile.
package throttle

import (
	"context"
	"sync"

	"golang.org/x/time/rate"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/pass"
	"github.com/cowl-disk/cowl/opts"
)

type options struct {
	Group string `opt:"throttle-group" help:"Name of the throttle group"`
}

var desc = driver.Desc{
	Name:        "throttle",
	Kind:        driver.KindFilter,
	Children:    pass.Children(),
	Summary:     "Bounds requests and bytes per second",
	OpenOptions: opts.SchemaOf(options{}),
}

// throttle knows the groups of its open nodes.
type throttle struct {
	mu     sync.Mutex
	groups map[*driver.ThrottleGroup]*group
}

// New returns the driver "throttle".
func New() driver.Driver { return &throttle{groups: map[*driver.ThrottleGroup]*group{}} }

// Desc implements driver.Driver.
func (*throttle) Desc() *driver.Desc { return &desc }

// Open implements driver.Driver.
func (d *throttle) Open(_ context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o options
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	if o.Group == "" {
		return nil, driver.Errorf(driver.ErrInvalid, "please specify a throttle group")
	}
	def, err := driver.FindObject[*driver.ThrottleGroup](req.Env.Objects, o.Group)
	if err != nil {
		return nil, driver.Errorf(driver.ErrInvalid, "throttle group '%s' does not exist", o.Group)
	}
	return &node{Node: pass.Node{Child: req.File}, driver: d, def: def, group: d.join(def)}, nil
}

// join returns the group that def defines, for one more node.
func (d *throttle) join(def *driver.ThrottleGroup) *group {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.groups[def]
	if g == nil {
		g = newGroup(def)
		d.groups[def] = g
	}
	g.nodes++
	return g
}

func (d *throttle) leave(def *driver.ThrottleGroup) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g := d.groups[def]; g != nil {
		if g.nodes--; g.nodes == 0 {
			delete(d.groups, def)
		}
	}
}

// group holds the buckets of a throttle group.
type group struct {
	nodes       int // guarded by the driver
	size        int64
	bytes, ops  []*rate.Limiter // of all requests
	read, write direction
}

type direction struct{ bytes, ops []*rate.Limiter }

func newGroup(def *driver.ThrottleGroup) *group {
	return &group{size: def.IOPSSize, bytes: buckets(def.BPS), ops: buckets(def.IOPS),
		read:  direction{buckets(def.BPSRead), buckets(def.IOPSRead)},
		write: direction{buckets(def.BPSWrite), buckets(def.IOPSWrite)}}
}

// buckets are those of one limit, none if there is no limit.
func buckets(l driver.ThrottleLimit) []*rate.Limiter {
	if l.Average == 0 {
		return nil
	}
	if l.Max == 0 {
		return []*rate.Limiter{bucket(l.Average, l.Average/10)}
	}
	return []*rate.Limiter{bucket(l.Average, l.Max*max(l.Burst, 1)), bucket(l.Max, l.Max/10)}
}

func bucket(perSecond, holds int64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), int(max(holds, 1)))
}

// wait lets a request of n bytes pass when all buckets have room for it. A request that
// is larger than a bucket goes through it in parts.
func (g *group) wait(ctx context.Context, d *direction, n int64) error {
	ops := int64(1)
	if g.size > 0 && n > g.size {
		ops = (n + g.size - 1) / g.size
	}
	for _, b := range [][]*rate.Limiter{g.bytes, d.bytes} {
		if err := take(ctx, b, n); err != nil {
			return err
		}
	}
	for _, b := range [][]*rate.Limiter{g.ops, d.ops} {
		if err := take(ctx, b, ops); err != nil {
			return err
		}
	}
	return nil
}

func take(ctx context.Context, list []*rate.Limiter, n int64) error {
	for _, l := range list {
		for left := n; left > 0; {
			part := min(left, int64(l.Burst()))
			if err := l.WaitN(ctx, int(part)); err != nil {
				if ctx.Err() == nil {
					return context.DeadlineExceeded // it would pass before the turn comes
				}
				return ctx.Err()
			}
			left -= part
		}
	}
	return nil
}

type node struct {
	pass.Node
	driver *throttle
	def    *driver.ThrottleGroup
	group  *group
}

// Close implements driver.Node.
func (n *node) Close(context.Context) error {
	n.driver.leave(n.def)
	return nil
}

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := n.group.wait(ctx, &n.group.read, int64(len(p))); err != nil {
		return 0, err
	}
	return n.Node.ReadAt(ctx, p, off)
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := n.group.wait(ctx, &n.group.write, int64(len(p))); err != nil {
		return 0, err
	}
	return n.Node.WriteAt(ctx, p, off)
}

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	if err := n.group.wait(ctx, &n.group.write, length); err != nil {
		return err
	}
	return n.Node.WriteZeroes(ctx, off, length, flags)
}

// Discard implements driver.Discarder.
func (n *node) Discard(ctx context.Context, off, length int64) error {
	if err := n.group.wait(ctx, &n.group.write, length); err != nil {
		return err
	}
	return n.Node.Discard(ctx, off, length)
}
