package block_test

import (
	"context"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// toy is a format made for tests: clusters of 4 KiB whose table is in memory, so
// that an image is as good as its node. It probes as nothing.
type toy struct {
	size    int64
	backing string
	serial  bool
	image   *toyImage // of the last Open
}

const toyCluster = 4096

var toySchema = opts.SchemaOf(struct{}{})

func (d *toy) Desc() *driver.Desc {
	return &driver.Desc{Name: "toy", Kind: driver.KindFormat, Children: []driver.ChildDesc{{Role: "file"}, {Role: "backing", Use: driver.UseBacking, Optional: true}}, OpenOptions: toySchema, Serial: d.serial}
}

func (d *toy) Open(_ context.Context, req *driver.OpenRequest) (driver.Node, error) {
	d.image = &toyImage{toy: d, file: req.File, guard: req.Env.Guard, at: map[int64]int64{}, pending: map[int64]bool{}}
	d.image.free = sync.NewCond(&d.image.mu)
	return d.image, nil
}

type toyImage struct {
	*toy
	file    driver.Storage
	guard   *driver.Guard
	mu      sync.Mutex
	free    *sync.Cond
	at      map[int64]int64 // cluster → host offset, -1 for zeroes
	pending map[int64]bool
	end     int64
	aborts  int
}

func (t *toyImage) Size() int64 { return t.size }
func (t *toyImage) Limits() driver.Limits {
	return driver.Limits{ClusterSize: toyCluster, ZeroAlignment: toyCluster, DiscardAlignment: toyCluster}
}

func (t *toyImage) Traits() driver.Traits { return driver.Traits{} }

func (t *toyImage) State(context.Context) (*driver.State, error) {
	i := &driver.State{}
	if t.backing != "" {
		i.Backing = &driver.BackingRef{Filename: t.backing, Format: "raw"}
	}
	return i, nil
}

func (t *toyImage) Flush(ctx context.Context) error { return t.file.Flush(ctx) }
func (t *toyImage) Close(context.Context) error     { return nil }

func (t *toyImage) ReadEncoded(context.Context, []byte, int64) error { return driver.ErrUnsupported }

func (t *toyImage) Map(_ context.Context, off, n int64) (driver.Extent, error) {
	if off >= t.size {
		return driver.Extent{}, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c, in := off/toyCluster, off%toyCluster
	e := driver.Extent{Length: min(n, toyCluster-in, t.size-off)}
	host, ok := t.at[c]
	switch {
	case !ok:
		e.Kind = driver.ExtentUnallocated
	case host < 0:
		e.Kind = driver.ExtentZero
	default:
		e.Kind, e.Child, e.HostOffset, e.HasOffset = driver.ExtentData, t.file, host+in, true
	}
	return e, nil
}

func (t *toyImage) Allocate(_ context.Context, off, n int64) (driver.WriteTarget, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, in := off/toyCluster, off%toyCluster
	for t.pending[c] {
		t.free.Wait()
	}
	w := driver.WriteTarget{Length: min(n, toyCluster-in), Child: t.file}
	if host, ok := t.at[c]; ok && host >= 0 {
		w.HostOffset = host + in
		return w, nil
	}
	t.pending[c] = true
	w.HostOffset = t.end + in
	w.Head, w.Tail = in, toyCluster-in-w.Length
	w.Pending = &toyPending{t, c, t.end}
	t.end += toyCluster
	return w, nil
}

type toyPending struct {
	t    *toyImage
	c    int64
	host int64
}

func (p *toyPending) end(commit bool) {
	p.t.mu.Lock()
	defer p.t.mu.Unlock()
	if commit {
		p.t.at[p.c] = p.host
	} else {
		p.t.aborts++
	}
	delete(p.t.pending, p.c)
	p.t.free.Broadcast()
}

func (p *toyPending) Commit(context.Context) error { p.end(true); return nil }
func (p *toyPending) Abort(context.Context)        { p.end(false) }

func (t *toyImage) set(off, n int64, zero bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := off / toyCluster; c*toyCluster < off+n; c++ {
		for t.pending[c] {
			t.free.Wait()
		}
		if zero {
			t.at[c] = -1
		} else {
			delete(t.at, c)
		}
	}
}

func (t *toyImage) WriteZeroes(_ context.Context, off, n int64, _ driver.ZeroFlags) error {
	t.set(off, n, true)
	return nil
}

func (t *toyImage) Discard(_ context.Context, off, n int64) error {
	t.set(off, n, true)
	return nil
}
