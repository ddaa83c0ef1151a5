package sparseimage

import (
	"cmp"
	"context"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
)

// node is an open image. Nothing of it changes after Open.
type node struct {
	file     driver.Storage
	budget   *driver.Budget
	size     int64  // of the disk
	band     int64  // bytes of one
	bands    []band // those that are there, by their number
	reserved int64  // of the budget

	encrypted bool
}

// Size implements driver.Node.
func (n *node) Size() int64 { return n.size }

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits { return driver.Limits{ClusterSize: n.band} }

// Traits implements driver.Node.
func (n *node) Traits() driver.Traits {
	return driver.Traits{FixedSize: true, Encrypted: n.encrypted}
}

// Flush implements driver.Node.
func (n *node) Flush(context.Context) error { return nil }

// Close implements driver.Node.
func (n *node) Close(context.Context) error {
	n.release()
	return nil
}

func (n *node) release() {
	n.budget.Release(n.reserved)
	n.reserved = 0
}

// Info implements driver.Describer.
func (n *node) Info(context.Context) (*driver.Info, error) {
	return &driver.Info{ClusterSize: n.band}, nil
}

// ReadEncoded implements driver.Format; Map never asks for it.
func (n *node) ReadEncoded(context.Context, []byte, int64) error {
	return driver.Errorf(driver.ErrInvalid, "sparse images have no encoded extents")
}

// Map implements driver.Format. Bands that follow each other on the disk and in the file
// are one extent.
func (n *node) Map(_ context.Context, off, length int64) (driver.Extent, error) {
	length = min(length, n.size-off)
	if length <= 0 {
		return driver.Extent{}, nil
	}
	number := off / n.band
	i, found := slices.BinarySearchFunc(n.bands, number, func(b band, number int64) int { return cmp.Compare(b.number, number) })
	if !found {
		if i < len(n.bands) {
			length = min(length, n.bands[i].number*n.band-off)
		}
		return driver.Extent{Kind: driver.ExtentZero, Length: length}, nil
	}
	first := n.bands[i]
	end := (number + 1) * n.band
	for i++; end < off+length && i < len(n.bands) && n.bands[i].number*n.band == end && n.bands[i].host-first.host == end-number*n.band; i++ {
		end += n.band
	}
	return driver.Extent{Kind: driver.ExtentData, Length: min(length, end-off), Child: n.file,
		HostOffset: first.host + off - number*n.band, HasOffset: true}, nil
}
