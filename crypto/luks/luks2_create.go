package luks

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"io"
	"math"
	"runtime"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/cowl-disk/cowl/crypto/sector"
	"github.com/cowl-disk/cowl/internal/message"
	"github.com/cowl-disk/cowl/internal/resources"
)

// The layout of new volumes of version 2, as cryptsetup makes it.
const (
	newHeader2  = 16 << 10
	newPayload2 = 16 << 20
)

// What new argon2 key slots take, as with cryptsetup: as much memory as this unless less is
// asked for, or half of what there is; at least this many passes, or less memory.
const (
	maxCost2    = 1 << 30
	minCost2    = 1 << 20
	minPasses2  = 4
	maxThreads2 = 4
	saltBytes2  = 32
)

// create2 writes the header of a new volume of version 2.
func create2(ctx context.Context, area Area, o CreateOptions, spec sector.Spec, keyBytes int, passphrase []byte) (*Header, *Key, error) {
	newHash, err := sector.Hash(o.HashAlg)
	if err != nil {
		return nil, nil, errorf(ErrUnsupported, "PBKDF does not support hash algorithm %s", o.HashAlg)
	}
	encryption := spec.Cipher + "-" + specMode(o.CipherMode, o.IVGenAlg, o.IVGenHashAlg)
	key := &Key{bytes: make([]byte, keyBytes)}
	rand.Read(key.bytes)
	payload := int64(newPayload2)
	h := &Header{Version: 2, UUID: newUUID(), Spec: spec, KeyBytes: keyBytes, PayloadOffset: payload, PayloadSize: -1, SectorSize: o.SectorSize,
		Reserve: o.Reserve, area: area, areaSize: payload}
	if o.Detached {
		h.PayloadOffset = 0
	}
	slot, material, err := h.newSlot2(ctx, o, key, passphrase)
	if err != nil {
		key.Wipe()
		return nil, nil, err
	}
	slot.area.offset = 2 * newHeader2
	rate, err := pbkdf2Rate(ctx, newHash, o.IterTime)
	if err != nil {
		key.Wipe()
		return nil, nil, err
	}
	d := digest2{hash: o.HashAlg, salt: make([]byte, saltBytes2)}
	rand.Read(d.salt)
	if d.iterations, err = iterations(rate, newHash(), newHash().Size(), o.IterTime, digestShare); err == nil {
		d.digest, err = pbkdf2(ctx, newHash, key.bytes, d.salt, int(d.iterations), newHash().Size())
	}
	if err != nil {
		key.Wipe()
		return nil, nil, err
	}
	base := base64.StdEncoding.EncodeToString
	c := &headerCopy{size: newHeader2, binary: make([]byte, binarySize2), text: []byte("{}"), uuid: h.UUID, label: o.Label}
	c.binary[6], c.binary[7] = 0, 2
	copy(c.binary[checksum2:], "sha256")
	copy(c.binary[label2:label2+labelLen2-1], o.Label)
	copy(c.binary[uuid2:uuid2+uuidLen2-1], h.UUID)
	h.v2 = &luks2{copy: c}
	err = wipe2(ctx, area, payload)
	if err == nil {
		err = h.write(ctx, material, slot.area.offset)
	}
	if err == nil {
		err = h.rewrite(ctx, func(doc document) error {
			for name, value := range map[string]any{
				"keyslots": map[string]any{"0": slot.text(encryption)},
				"tokens":   map[string]any{},
				"segments": map[string]any{"0": map[string]any{"type": "crypt", "offset": decimal(h.PayloadOffset), "size": "dynamic", "iv_tweak": "0",
					"encryption": encryption, "sector_size": o.SectorSize}},
				"digests": map[string]any{"0": map[string]any{"type": "pbkdf2", "keyslots": []string{"0"}, "segments": []string{"0"}, "hash": d.hash,
					"iterations": d.iterations, "salt": base(d.salt), "digest": base(d.digest)}},
				"config": map[string]any{"json_size": decimal(newHeader2 - binarySize2), "keyslots_size": decimal(newPayload2 - 2*newHeader2)},
			} {
				if err := doc.put(name, value); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		key.Wipe()
		return nil, nil, err
	}
	return h, key, nil
}

// wipe2 clears the room of a header: a copy of another one in it, with a higher sequence
// number, would be taken for the volume's. What is zero stays as it is.
func wipe2(ctx context.Context, area Area, n int64) error {
	buf, zeroes := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < n; off += int64(len(buf)) {
		if _, err := area.ReadAt(ctx, buf, off); err != nil && err != io.EOF {
			return message.Errorf(nil, "could not read encryption header: %w", err)
		}
		if bytes.Equal(buf, zeroes) {
			continue
		}
		if _, err := area.WriteAt(ctx, zeroes, off); err != nil {
			return message.Errorf(nil, "could not write encryption header: %w", err)
		}
	}
	return flush(ctx, area)
}

// newSlot2 makes a key slot, without its place, and its encrypted key material.
func (h *Header) newSlot2(ctx context.Context, o CreateOptions, key *Key, passphrase []byte) (*slot2, []byte, error) {
	afHash, err := sector.Hash(o.HashAlg)
	if err != nil {
		return nil, nil, errorf(ErrUnsupported, "hash algorithm '%s' not supported", o.HashAlg)
	}
	s := &slot2{keySize: len(key.bytes), priority: priorityNormal, stripes: stripes1, afHash: o.HashAlg}
	s.area = area2{size: areaSizeFor(len(key.bytes)), encryption: h.Spec, keySize: len(key.bytes)}
	s.kdf = kdf2{kind: o.PBKDF, salt: make([]byte, saltBytes2)}
	rand.Read(s.kdf.salt)
	if err := s.kdf.cost(ctx, o, len(key.bytes)); err != nil {
		return nil, nil, err
	}
	slotKey, err := h.derive(ctx, &s.kdf, passphrase, len(key.bytes))
	if err != nil {
		return nil, nil, err
	}
	defer clear(slotKey)
	material, err := h.seal(afHash, slotKey, key)
	return s, material, err
}

// cost chooses how much work a key slot is.
func (k *kdf2) cost(ctx context.Context, o CreateOptions, keyBytes int) error {
	if k.kind == "pbkdf2" {
		k.hash = o.HashAlg
		newHash, err := sector.Hash(o.HashAlg)
		if err != nil {
			return errorf(ErrUnsupported, "PBKDF does not support hash algorithm %s", o.HashAlg)
		}
		rate, err := pbkdf2Rate(ctx, newHash, o.IterTime)
		if err != nil {
			return err
		}
		k.iterations, err = iterations(rate, newHash(), keyBytes, o.IterTime, 1)
		return err
	}
	k.parallel = uint8(o.Parallel)
	if k.parallel == 0 {
		k.parallel = uint8(min(runtime.GOMAXPROCS(0), maxThreads2))
	}
	most := o.Memory
	if most == 0 {
		most = max(min(maxCost2, resources.Unused()/2), minCost2)
	}
	rate, err := argon2Rate(ctx, k.parallel)
	if err != nil {
		return err
	}
	k.memory, k.iterations, err = argon2Cost(rate, o.IterTime, most, o.Memory != 0)
	return err
}

// argon2Cost divides an amount of work, in bytes times passes, into memory and passes: as
// much memory as may be with at least minPasses2, unless it is fixed.
func argon2Cost(rate float64, d time.Duration, most int64, fixed bool) (memory int64, passes uint32, err error) {
	if d < 0 {
		return 0, 0, errorf(ErrInvalid, "the time of a key slot is out of range")
	}
	work := rate * d.Seconds()
	memory = most
	if !fixed {
		memory = min(most, max(minCost2, int64(min(work/minPasses2, math.MaxInt64/2))>>20<<20))
	}
	n := work / float64(memory)
	if n*float64(memory>>10) > maxWork2 {
		return 0, 0, errorf(ErrInvalid, "a key slot that takes %v to open is not supported", d)
	}
	return memory, uint32(max(n, minPasses2)), nil
}

// measureArgon2 is the memory that the measurement takes, in bytes.
const measureArgon2 = 16 << 20

// argon2Rate measures how many bytes argon2 gets through in a second. The fastest run counts,
// so that other work of the machine makes no difference.
func argon2Rate(ctx context.Context, parallel uint8) (float64, error) {
	best := time.Duration(math.MaxInt64)
	for range 3 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		begin := time.Now()
		argon2.IDKey([]byte("measure"), []byte("measure it"), 1, measureArgon2>>10, parallel, 32)
		best = min(best, max(time.Since(begin), 1))
	}
	return measureArgon2 / best.Seconds(), nil
}
