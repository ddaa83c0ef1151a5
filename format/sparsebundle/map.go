package sparsebundle

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/applecrypt"
)

// maxOpen is how many bands are open at a time.
const maxOpen = 32

// node is an open image.
type node struct {
	env      *driver.Env
	keys     *applecrypt.Keys // nil: not encrypted
	size     int64            // of the disk
	band     int64            // bytes of one
	bands    []int64          // the numbers of those that are there; nil: unknown
	reserved int64            // of the budget

	mu   sync.Mutex
	open map[int64]*openBand
	tick int64 // counts uses
}

// openBand is a band that is open.
type openBand struct {
	driver.Storage
	used int64 // tick of the last use
}

// Size implements driver.Node.
func (n *node) Size() int64 { return n.size }

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits { return driver.Limits{ClusterSize: n.band} }

// Traits implements driver.Node.
func (n *node) Traits() driver.Traits {
	return driver.Traits{FixedSize: true, Encrypted: n.keys != nil}
}

// Flush implements driver.Node.
func (n *node) Flush(context.Context) error { return nil }

// Info implements driver.Describer.
func (n *node) Info(context.Context) (*driver.Info, error) {
	return &driver.Info{ClusterSize: n.band}, nil
}

// ReadEncoded implements driver.Format; Map never asks for it.
func (n *node) ReadEncoded(context.Context, []byte, int64) error {
	return driver.Errorf(driver.ErrInvalid, "sparse bundles have no encoded extents")
}

// Close implements driver.Node.
func (n *node) Close(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for number, b := range n.open {
		errs = append(errs, b.Close(ctx))
		delete(n.open, number)
	}
	n.env.Budget.Release(n.reserved)
	n.reserved = 0
	return errors.Join(errs...)
}

// Map implements driver.Format.
func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	length = min(length, n.size-off)
	if length <= 0 {
		return driver.Extent{}, nil
	}
	number := off / n.band
	if n.bands != nil {
		if i, found := slices.BinarySearch(n.bands, number); !found {
			if i < len(n.bands) {
				length = min(length, n.bands[i]*n.band-off)
			}
			return driver.Extent{Kind: driver.ExtentZero, Length: length}, nil
		}
	}
	in := off - number*n.band
	length = min(length, n.band-in)
	b, err := n.get(ctx, number)
	if errors.Is(err, driver.ErrNotExist) {
		return driver.Extent{Kind: driver.ExtentZero, Length: length}, nil
	}
	if err != nil {
		return driver.Extent{}, err
	}
	if there := b.Size() - in; there > 0 {
		x := driver.Extent{Kind: driver.ExtentData, Length: min(length, there), Child: b, HostOffset: in, HasOffset: true, Recurse: true}
		if n.keys != nil {
			x.Child, x.Recurse = n.keys.Part(b), false
		}
		return x, nil
	}
	return driver.Extent{Kind: driver.ExtentZero, Length: length}, nil
}

// get returns a band, which stays open until the requests that are under way have ended.
func (n *node) get(ctx context.Context, number int64) (driver.Storage, error) {
	if s := n.find(number); s != nil {
		return s, nil
	}
	s, err := n.env.OpenPart(ctx, driver.ChildRef{Role: folder, Filename: folder + "/" + bandName(number), ReadOnly: true})
	if err != nil {
		return nil, err
	}
	return n.keep(number, s), nil
}

// find returns a band that is open, nil if it is not.
func (n *node) find(number int64) driver.Storage {
	n.mu.Lock()
	defer n.mu.Unlock()
	b := n.open[number]
	if b == nil {
		return nil
	}
	n.tick++
	b.used = n.tick
	return b.Storage
}

// keep adds a band that was opened, and lets go the one that was not used for longest. If
// another request was faster, its is kept.
func (n *node) keep(number int64, s driver.Storage) driver.Storage {
	n.mu.Lock()
	var drop driver.Storage
	n.tick++
	if b := n.open[number]; b != nil {
		b.used = n.tick
		s, drop = b.Storage, s
	} else {
		if len(n.open) >= maxOpen {
			oldest := int64(-1)
			for i, b := range n.open {
				if oldest < 0 || b.used < n.open[oldest].used {
					oldest = i
				}
			}
			drop = n.open[oldest].Storage
			delete(n.open, oldest)
		}
		n.open[number] = &openBand{s, n.tick}
	}
	n.mu.Unlock()
	if drop != nil {
		// The file is only read: nothing is lost if it does not close.
		n.env.Guard.Defer(func() { _ = drop.Close(context.Background()) })
	}
	return s
}
