package luks

import (
	"context"
	"crypto/subtle"
	"errors"
	"hash"
	"runtime"

	"github.com/cowl-disk/cowl/internal/message"

	"golang.org/x/sync/errgroup"

	"github.com/cowl-disk/cowl/crypto/sector"
)

// errWrongKey says that a slot does not open with a passphrase.
var errWrongKey = errors.New("wrong key")

// errFound ends the search in other slots.
var errFound = errors.New("found")

func (h *Header) hash1() (func() hash.Hash, error) {
	newHash, err := sector.Hash(h.v1.hash)
	if err != nil {
		return nil, errorf(ErrUnsupported, "PBKDF does not support hash algorithm %s", h.v1.hash)
	}
	return newHash, nil
}

// unlock1 tries all active slots.
func (h *Header) unlock1(ctx context.Context, passphrase []byte) (*Key, error) {
	var slots []int
	for i := range h.v1.slots {
		if h.v1.slots[i].active() {
			slots = append(slots, i)
		}
	}
	return search(ctx, slots, func(ctx context.Context, slot int) (*Key, error) {
		return h.unlockSlot1(ctx, slot, passphrase)
	})
}

// search tries slots, beside each other as far as there are processors, and returns
// the first key that is found. try returns errWrongKey for the others. A slot that
// cannot be read does not hide the others.
func search(ctx context.Context, slots []int, try func(ctx context.Context, slot int) (*Key, error)) (*Key, error) {
	keys, errs := make([]*Key, len(slots)), make([]error, len(slots))
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, slot := range slots {
		g.Go(func() error {
			if inner.Err() != nil {
				return nil
			}
			k, err := try(inner, slot)
			if err != nil {
				if !errors.Is(err, errWrongKey) {
					errs[i] = err
				}
				return nil
			}
			keys[i] = k
			return errFound
		})
	}
	_ = g.Wait() // nil, or errFound
	var found *Key
	for _, k := range keys {
		if found == nil {
			found = k
		} else {
			k.Wipe()
		}
	}
	switch {
	case found != nil:
		return found, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return nil, ErrPassphrase
}

// unlockSlot1 opens one active slot (specification 1.2.3, figure 5).
func (h *Header) unlockSlot1(ctx context.Context, slot int, passphrase []byte) (*Key, error) {
	newHash, err := h.hash1()
	if err != nil {
		return nil, err
	}
	s := &h.v1.slots[slot]
	split := make([]byte, h.KeyBytes*stripes1)
	defer clear(split)
	if err := h.readMaterial(ctx, split, int64(s.offset)*sectorSize); err != nil {
		return nil, err
	}
	slotKey, err := pbkdf2(ctx, newHash, passphrase, s.salt[:], int(s.iters), h.KeyBytes)
	if err != nil {
		return nil, err
	}
	defer clear(slotKey)
	c, err := sector.New(h.Spec, slotKey, sectorSize)
	if err != nil {
		return nil, errorf(ErrUnsupported, "%w", err)
	}
	padded := padSectors(split)
	c.Decrypt(padded, padded, 0)
	key := afMerge(newHash, padded[:len(split)], stripes1)
	clear(padded)
	digest, err := pbkdf2(ctx, newHash, key, h.v1.digestSalt[:], int(h.v1.digestIters), digestSize1)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(digest, h.v1.digest[:]) != 1 {
		clear(key)
		return nil, errWrongKey
	}
	return &Key{bytes: key, slot: slot}, nil
}

// readMaterial reads key material, which must be within the area.
func (h *Header) readMaterial(ctx context.Context, p []byte, off int64) error {
	if off < 0 || off > h.areaSize-int64(len(p)) {
		return errorf(ErrCorrupt, "key material at %d lies beyond the end of the volume", off)
	}
	if err := readFull(ctx, h.area, p, off); err != nil {
		return message.Errorf(nil, "could not read encryption header: %w", err)
	}
	return nil
}

// padSectors returns b in whole sectors. All keys that ciphers take fill them, so
// that there is nothing to pad but for what a header of version 2 may say.
func padSectors(b []byte) []byte {
	if n := len(b) % sectorSize; n != 0 {
		return append(b[:len(b):len(b)], make([]byte, sectorSize-n)...)
	}
	return b
}
