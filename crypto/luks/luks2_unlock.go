package luks

import (
	"context"
	"crypto/subtle"

	"golang.org/x/crypto/argon2"

	"github.com/cowl-disk/cowl/crypto/sector"
	"github.com/cowl-disk/cowl/internal/resources"
)

// unlockSlot2 opens one key slot (section 3.2).
func (h *Header) unlockSlot2(ctx context.Context, s *slot2, passphrase []byte) (*Key, error) {
	afHash, err := sector.Hash(s.afHash)
	if err != nil {
		return nil, errorf(ErrUnsupported, "hash algorithm '%.64s' not supported", s.afHash)
	}
	n := s.keySize * s.stripes
	split := padSectors(make([]byte, n))
	defer clear(split)
	if err := h.readMaterial(ctx, split[:min(int64(len(split)), s.area.size)], s.area.offset); err != nil {
		return nil, err
	}
	slotKey, err := h.derive(ctx, &s.kdf, passphrase, s.area.keySize)
	if err != nil {
		return nil, err
	}
	defer clear(slotKey)
	c, err := sector.New(s.area.encryption, slotKey, sectorSize)
	if err != nil {
		return nil, errorf(ErrUnsupported, "%w", err)
	}
	c.Decrypt(split, split, 0)
	key := afMerge(afHash, split[:n], s.stripes)
	ok, err := h.v2.digest.matches(ctx, key)
	if !ok || err != nil {
		clear(key)
		if err == nil {
			err = errWrongKey
		}
		return nil, err
	}
	return &Key{bytes: key, slot: s.number}, nil
}

// matches says whether a key is that of the digest (section 3.4).
func (d *digest2) matches(ctx context.Context, key []byte) (bool, error) {
	newHash, err := sector.Hash(d.hash)
	if err != nil {
		return false, errorf(ErrUnsupported, "PBKDF does not support hash algorithm %s", d.hash)
	}
	got, err := pbkdf2(ctx, newHash, key, d.salt, int(d.iterations), len(d.digest))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, d.digest) == 1, nil
}

// derive computes the key of a slot's area.
func (h *Header) derive(ctx context.Context, k *kdf2, passphrase []byte, n int) ([]byte, error) {
	if k.kind == "pbkdf2" {
		newHash, err := sector.Hash(k.hash)
		if err != nil {
			return nil, errorf(ErrUnsupported, "PBKDF does not support hash algorithm %.64s", k.hash)
		}
		return pbkdf2(ctx, newHash, passphrase, k.salt, int(k.iterations), n)
	}
	release, err := h.reserve(k.memory)
	if err != nil {
		return nil, err
	}
	// argon2 cannot be interrupted: after ctx ended it goes on by itself, as long as
	// maxWork2 allows at most, and gives its memory back when it is done.
	done := make(chan []byte, 1)
	passphrase = append([]byte(nil), passphrase...)
	go func() {
		defer release()
		f := argon2.IDKey
		if k.kind == "argon2i" {
			f = argon2.Key
		}
		key := f(passphrase, k.salt, k.iterations, uint32(k.memory>>10), k.parallel, uint32(n))
		clear(passphrase)
		done <- key
	}()
	select {
	case key := <-done:
		return key, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (h *Header) reserve(n int64) (release func(), err error) {
	if err := resources.Claim(n); err != nil {
		return nil, errorf(ErrLimit, "the key slot's argon2: %w", err)
	}
	if h.Reserve == nil {
		return func() {}, nil // maxMemory2 bounds it
	}
	release, err = h.Reserve(n)
	if err != nil {
		return nil, errorf(ErrLimit, "%w", err)
	}
	return release, nil
}
