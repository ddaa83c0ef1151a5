package quorum

import (
	"context"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

type options struct {
	Threshold int64  `opt:"vote-threshold" type:"number" help:"The number of votes needed for reaching quorum"`
	BlkVerify bool   `opt:"blkverify" help:"Trigger block verify mode if set"`
	Rewrite   bool   `opt:"rewrite-corrupted" help:"Rewrite corrupted block on read quorum"`
	Pattern   string `opt:"read-pattern" help:"Allowed pattern: quorum, fifo. Quorum is default"`
}

var desc = driver.Desc{
	Name:        "quorum",
	Kind:        driver.KindFilter,
	NoDirectory: true,
	Children:    []driver.ChildDesc{{Role: "children", Use: driver.UseData, List: true, Optional: true}},
	Summary:     "A disk kept on several children that vote",
	OpenOptions: opts.SchemaOf(options{}),
}

type quorum struct{}

// New returns the driver "quorum".
func New() driver.Driver { return quorum{} }

// Desc implements driver.Driver.
func (quorum) Desc() *driver.Desc { return &desc }

// Open implements driver.Driver.
func (quorum) Open(_ context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o options
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	n := &node{threshold: int(o.Threshold), verify: o.BlkVerify, rewrite: o.Rewrite && req.Access.Write, fifo: o.Pattern == "fifo"}
	for _, c := range req.Members("children") {
		n.children = append(n.children, c.Storage)
	}
	refuse := func(format string, args ...any) (driver.Node, error) {
		return nil, driver.Errorf(driver.ErrInvalid, format, args...)
	}
	switch {
	case len(n.children) < 1:
		return refuse("number of provided children must be 1 or more")
	case o.Threshold < 1:
		return refuse("parameter 'vote-threshold' expects a value >= 1")
	case o.Threshold > int64(len(n.children)):
		return refuse("threshold may not exceed children count")
	case o.Pattern != "" && o.Pattern != "quorum" && o.Pattern != "fifo":
		return refuse("please set read-pattern as fifo or quorum")
	case o.BlkVerify && !n.fifo && (len(n.children) != 2 || o.Threshold != 2):
		return refuse("blkverify=on can only be set if there are exactly two files and vote-threshold is 2")
	case o.BlkVerify && o.Rewrite && !n.fifo:
		return refuse("rewrite-corrupted=on cannot be used with blkverify=on")
	}
	for _, c := range n.children[1:] {
		if c.Size() != n.children[0].Size() {
			return nil, driver.Errorf(driver.ErrInvalid, "could not refresh total sector count: %w", syscall.EIO)
		}
	}
	return n, nil
}
