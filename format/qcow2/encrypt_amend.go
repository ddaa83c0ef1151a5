package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/crypto/luks"
	"github.com/cowl-disk/cowl/format/qcow2/internal/keys"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// changesKeys says whether options of encryption are given.
func (a *amendment) changesKeys() bool {
	return a.IterTime != nil || a.Keyslot != nil || a.NewSecret != nil || a.OldSecret != nil || a.State != nil
}

// checkAmendKeys refuses key slots where there are none.
func (im *image) checkAmendKeys(a *amendment) error {
	switch {
	case !a.changesKeys():
		return nil
	case !im.encrypted():
		return invalid("can't amend encryption options - encryption not present")
	case im.hdr.CryptMethod != ondisk.CryptLUKS:
		return invalid("only LUKS encryption options can be amended")
	case a.State == nil:
		return invalid("parameter 'state' is missing")
	case *a.State != "active" && *a.State != "inactive":
		return invalid("parameter 'state' does not accept value '%s'", *a.State)
	}
	return nil
}

// amendKeys adds a passphrase or erases key slots.
func (im *image) amendKeys(ctx context.Context, a *amendment, force bool) error {
	if !a.changesKeys() {
		return nil
	}
	if err := im.beginWrite(ctx); err != nil {
		return err
	}
	change := im.eraseKeys
	if *a.State == "active" {
		change = im.addKey
	}
	err := change(ctx, a, force)
	im.hdrMu.Lock()
	im.describeEncryption() // also after an error: some slots may be gone
	im.hdrMu.Unlock()
	return keys.Error(err)
}

func (im *image) addKey(ctx context.Context, a *amendment, force bool) error {
	switch {
	case a.NewSecret == nil:
		return invalid("'new-secret' is required to activate a keyslot")
	case a.OldSecret != nil:
		return invalid("'old-secret' must not be given when activating keyslots")
	}
	add := luks.AddOptions{Slot: a.Keyslot, Force: force}
	if a.IterTime != nil {
		add.IterTime = luks.IterTime(*a.IterTime)
	}
	if err := im.luks.CanAddKey(add); err != nil {
		return err
	}
	current, err := keys.Passphrase(im.env.Objects, im.secretID)
	if err != nil {
		return err
	}
	secret, err := keys.Passphrase(im.env.Objects, *a.NewSecret)
	if err != nil {
		return err
	}
	key, err := im.luks.Unlock(ctx, current)
	if err != nil {
		return err
	}
	defer key.Wipe()
	_, err = im.luks.AddKey(ctx, key, secret, add)
	return err
}

func (im *image) eraseKeys(ctx context.Context, a *amendment, force bool) error {
	switch {
	case a.NewSecret != nil:
		return invalid("'new-secret' must not be given when erasing keyslots")
	case a.IterTime != nil:
		return invalid("'iter-time' must not be given when erasing keyslots")
	}
	erase := luks.EraseOptions{Slot: a.Keyslot, Force: force}
	if a.OldSecret != nil {
		old, err := keys.Passphrase(im.env.Objects, *a.OldSecret)
		if err != nil {
			return err
		}
		erase.Passphrase = append([]byte{}, old...) // empty is not none
	}
	return im.luks.EraseKey(ctx, erase)
}
