package sheepdog

import (
	"context"
	"errors"
)

// Redundancy is how many servers keep the objects of a VDI, and how. The zero value is the
// default of the cluster.
type Redundancy struct {
	// Copies is how many copies there are, or strips with Parity: 2, 4, 8 or 16 of data.
	Copies int
	Parity int // strips beside those of data; 0: whole copies
}

// MaxCopies and MaxParity bound a Redundancy.
const (
	MaxCopies = 31
	MaxParity = 15
)

// Valid says whether it is one.
func (r Redundancy) Valid() bool {
	if r.Parity == 0 {
		return r.Copies >= 0 && r.Copies <= MaxCopies
	}
	return r.Parity > 0 && r.Parity <= MaxParity && (r.Copies == 2 || r.Copies == 4 || r.Copies == 8 || r.Copies == 16)
}

// encode returns the two numbers that stand for it.
func (r Redundancy) encode() (copies, policy uint8) {
	if r.Parity == 0 {
		return uint8(r.Copies), 0
	}
	return uint8(r.Copies + r.Parity), uint8(r.Copies/2<<4 + r.Parity)
}

// New says what VDI to make.
type New struct {
	Name string // 1 to MaxName-1 bytes
	Size int64
	// Base is the number of the snapshot that the VDI is a clone of, 0: it is empty.
	Base       uint32
	Redundancy Redundancy
	// Shift is the size of objects, as a power of two; 0 is the default of the cluster.
	Shift uint8
}

// Create makes a VDI. There must be none of its name.
func (c *Client) Create(ctx context.Context, n New) error {
	copies, policy := n.Redundancy.encode()
	r := &request{op: opNew, size: uint64(n.Size), base: n.Base, copies: copies, policy: policy, shift: n.Shift, out: nameField(n.Name), once: true}
	return c.do(ctx, r)
}

// ObjectShift asks the cluster for the size of the objects of new VDIs.
func (c *Client) ObjectShift(ctx context.Context) (uint8, error) {
	r := &request{op: opDefault}
	err := c.do(ctx, r)
	var refused Result
	switch {
	case errors.As(err, &refused) && !refused.passing(): // older servers do not know the question
		return DefaultShift, nil
	case err != nil:
		return 0, err
	case r.defaultShift == 0:
		return DefaultShift, nil
	case r.defaultShift < MinShift || r.defaultShift > MaxShift:
		return 0, protocolError("the server says that objects have 2^%d bytes", r.defaultShift)
	}
	return r.defaultShift, nil
}
