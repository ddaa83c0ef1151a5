package luks

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/crypto/luks"
)

// Amend implements driver.Amender: it adds a key, or erases key slots.
func (n *node) Amend(ctx context.Context, req *driver.AmendRequest) error {
	if !n.write {
		return driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	var o amendOptions
	if err := amendSchema.Decode(req.Options, &o); err != nil {
		return err
	}
	if o.State == nil {
		return driver.Errorf(driver.ErrInvalid, "parameter 'state' is missing")
	}
	if n.key == nil {
		return errNoSecret
	}
	switch *o.State {
	case "active":
		return failure(n.addKey(ctx, &o, req.Force))
	case "inactive":
		return failure(n.eraseKey(ctx, &o, req.Force))
	}
	return driver.Errorf(driver.ErrInvalid, "parameter 'state' does not accept value '%s'", *o.State)
}

func invalid(msg string) error { return driver.Errorf(driver.ErrInvalid, "%s", msg) }

func (n *node) addKey(ctx context.Context, o *amendOptions, force bool) error {
	switch {
	case o.NewSecret == nil:
		return invalid("'new-secret' is required to activate a keyslot")
	case o.OldSecret != nil:
		return invalid("'old-secret' must not be given when activating keyslots")
	}
	add := luks.AddOptions{Slot: o.Keyslot, Force: force}
	if o.IterTime != nil {
		add.IterTime = luks.IterTime(*o.IterTime)
	}
	if err := n.hdr.CanAddKey(add); err != nil {
		return err
	}
	secret, err := passphrase(n.objects, o.NewSecret)
	if err != nil {
		return err
	}
	_, err = n.hdr.AddKey(ctx, n.key, secret, add)
	return err
}

func (n *node) eraseKey(ctx context.Context, o *amendOptions, force bool) error {
	switch {
	case o.NewSecret != nil:
		return invalid("'new-secret' must not be given when erasing keyslots")
	case o.IterTime != nil:
		return invalid("'iter-time' must not be given when erasing keyslots")
	}
	erase := luks.EraseOptions{Slot: o.Keyslot, Force: force}
	if o.OldSecret != nil {
		var err error
		if erase.Passphrase, err = passphrase(n.objects, o.OldSecret); err != nil {
			return err
		}
		if erase.Passphrase == nil {
			erase.Passphrase = []byte{} // empty, which is not none
		}
	}
	return n.hdr.EraseKey(ctx, erase)
}
