package luks

import (
	"context"
	"crypto/rand"
	"fmt"
	"hash"
	"time"

	"github.com/cowl-disk/cowl/crypto/sector"
	"github.com/cowl-disk/cowl/internal/message"
)

// DefaultIterTime is how long a new key slot takes to open unless something else is
// asked for.
const DefaultIterTime = 2 * time.Second

// CreateOptions describe a new volume. The names are those of QEMU's
// options; empty ones are the defaults.
type CreateOptions struct {
	CipherAlg    string // "aes-256": the cipher with the size of its key in bits
	CipherMode   string // "xts"
	IVGenAlg     string // "plain64"
	IVGenHashAlg string // "sha256" for essiv, none for others
	HashAlg      string // "sha256": of key derivation and anti-forensic splitting
	// IterTime is how long a processor works to open the key slot. Zero is
	// DefaultIterTime; see the function IterTime.
	IterTime time.Duration
	// Detached: the payload is in another file, from its beginning.
	Detached bool

	// Version is 1 or 2; 0 is 1. The fields below are for version 2.
	Version int
	// PBKDF is how the key of a slot follows from a passphrase: argon2id (the default),
	// argon2i or pbkdf2.
	PBKDF string
	// Memory, in bytes, and Parallel are what argon2 takes; 0 for what cryptsetup takes: up
	// to 1 GiB, but no more than half of what there is, and up to four threads.
	Memory   int64
	Parallel int
	// SectorSize is 512 (the default) to 4096 bytes, a power of two.
	SectorSize int
	// Label is a name of at most 47 bytes.
	Label string
	// Reserve is that of Header.
	Reserve func(n int64) (release func(), err error)
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// complete fills in the defaults and refuses names that are not known at all.
func (o CreateOptions) complete() (CreateOptions, error) {
	o.CipherAlg = or(o.CipherAlg, "aes-256")
	o.CipherMode = or(o.CipherMode, "xts")
	o.IVGenAlg = or(o.IVGenAlg, "plain64")
	o.HashAlg = or(o.HashAlg, "sha256")
	if o.IVGenAlg == "essiv" {
		o.IVGenHashAlg = or(o.IVGenHashAlg, "sha256")
	}
	if o.IterTime == 0 {
		o.IterTime = DefaultIterTime
	}
	if err := o.complete2(); err != nil {
		return o, err
	}
	known := knownOther
	for _, a := range algorithms {
		known = append(known[:len(known):len(known)], a.option)
	}
	for _, f := range []struct {
		name, value string
		among       []string
	}{
		{"cipher-alg", o.CipherAlg, known}, {"cipher-mode", o.CipherMode, modeNames}, {"ivgen-alg", o.IVGenAlg, ivgenNames},
		{"ivgen-hash-alg", o.IVGenHashAlg, hashNames}, {"hash-alg", o.HashAlg, hashNames},
	} {
		if f.value != "" && !contains(f.among, f.value) {
			return o, errorf(ErrInvalid, "parameter '%s' does not accept value '%s'", f.name, f.value)
		}
	}
	return o, nil
}

// complete2 does so for what only version 2 has.
func (o *CreateOptions) complete2() error {
	switch o.Version {
	case 0, 1:
		if o.PBKDF != "" || o.Memory != 0 || o.Parallel != 0 || o.SectorSize != 0 || o.Label != "" {
			return errorf(ErrInvalid, "key derivation, sector size and label can be chosen with version 2 only")
		}
		o.Version = 1
		return nil
	case 2:
	default:
		return errorf(ErrInvalid, "LUKS version %d is not supported", o.Version)
	}
	o.PBKDF = or(o.PBKDF, "argon2id")
	if o.SectorSize == 0 {
		o.SectorSize = sectorSize
	}
	switch {
	case !contains([]string{"argon2id", "argon2i", "pbkdf2"}, o.PBKDF):
		return errorf(ErrInvalid, "parameter '%s' does not accept value '%s'", "pbkdf", o.PBKDF)
	case o.PBKDF == "pbkdf2" && (o.Memory != 0 || o.Parallel != 0):
		return errorf(ErrInvalid, "pbkdf2 takes no memory and no threads")
	case o.Memory != 0 && (o.Memory < 32<<10 || o.Memory > maxMemory2<<10 || o.Memory%1024 != 0):
		return errorf(ErrInvalid, "argon2 takes 32 KiB to 4 GiB of memory")
	case o.Parallel < 0 || o.Parallel > maxThreads2:
		return errorf(ErrInvalid, "argon2 takes 1 to %d threads", maxThreads2)
	case o.Memory != 0 && o.Memory < int64(max(o.Parallel, maxThreads2))*8<<10:
		return errorf(ErrInvalid, "argon2 takes at least 8 KiB of memory for each thread")
	case o.SectorSize < sectorSize || o.SectorSize > 4096 || o.SectorSize&(o.SectorSize-1) != 0:
		return errorf(ErrInvalid, "sector size %d is impossible", o.SectorSize)
	case len(o.Label) >= labelLen2:
		return errorf(ErrInvalid, "the label is longer than %d bytes", labelLen2-1)
	}
	return nil
}

// spec returns the cipher and the length of its key.
func (o *CreateOptions) spec() (sector.Spec, int, error) {
	for _, a := range algorithms {
		if a.option != o.CipherAlg {
			continue
		}
		spec := sector.Spec{Cipher: a.name, Mode: o.CipherMode, IVGen: o.IVGenAlg}
		if o.IVGenAlg == "essiv" {
			spec.IVHash = o.IVGenHashAlg
			if err := checkESSIV(spec, a.option); err != nil {
				return spec, 0, err
			}
		}
		n := a.keyBytes * keyFactor(o.CipherMode)
		if _, err := sector.New(spec, make([]byte, n), sectorSize); err != nil {
			if a.name == "cast5" && o.CipherMode == "xts" {
				// XTS needs blocks of 16 bytes.
				return spec, 0, errorf(ErrUnsupported, "unsupported cipher mode xts")
			}
			return spec, 0, errorf(ErrUnsupported, "%w", err)
		}
		return spec, n, nil
	}
	return sector.Spec{}, 0, errorf(ErrUnsupported, "algorithm '%s' not supported", o.CipherAlg)
}

// Check refuses option values that no volume could have, before anything else is
// known.
func (o CreateOptions) Check() error {
	_, err := o.complete()
	return err
}

// HeaderSize returns how many bytes a new header takes: that is where the payload
// begins, unless the header is detached.
func HeaderSize(o CreateOptions) (int64, error) {
	o, err := o.complete()
	if err != nil {
		return 0, err
	}
	_, n, err := o.spec()
	if err != nil {
		return 0, err
	}
	if o.Version == 2 {
		return newPayload2, nil
	}
	return slotOffset(n, slotCount1), nil
}

// slotOffset returns where the key material of slot i begins. Slots are aligned as
// cryptsetup does it, not as the specification has it.
func slotOffset(keyBytes, i int) int64 {
	n := int64(keyBytes) * stripes1
	return slotAlign1 + (n+slotAlign1-1)/slotAlign1*slotAlign1*int64(i)
}

// Create writes the header of a new volume with a new volume key, which
// key slot 0 holds. The area has room for HeaderSize bytes. The header itself is
// written last.
func Create(ctx context.Context, area Area, o CreateOptions, passphrase []byte) (*Header, *Key, error) {
	o, err := o.complete()
	if err != nil {
		return nil, nil, err
	}
	spec, keyBytes, err := o.spec()
	if err != nil {
		return nil, nil, err
	}
	if o.Version == 2 {
		return create2(ctx, area, o, spec, keyBytes, passphrase)
	}
	h1 := &luks1{cipher: spec.Cipher, mode: specMode(o.CipherMode, o.IVGenAlg, o.IVGenHashAlg), hash: o.HashAlg,
		payload: uint32(slotOffset(keyBytes, slotCount1) / sectorSize), keyBytes: uint32(keyBytes), uuid: newUUID()}
	size := int64(h1.payload) * sectorSize
	if o.Detached {
		h1.payload = 0
	}
	for i := range h1.slots {
		h1.slots[i] = slot1{state: slotOff1, offset: uint32(slotOffset(keyBytes, i) / sectorSize), stripes: stripes1}
	}
	h := newHeader1(area, size, h1, spec)
	newHash, err := h.hash1()
	if err != nil {
		return nil, nil, err
	}
	rate, err := pbkdf2Rate(ctx, newHash, o.IterTime)
	if err != nil {
		return nil, nil, err
	}
	key := &Key{bytes: make([]byte, keyBytes)}
	rand.Read(key.bytes)
	if err := h.setDigest(ctx, newHash, key, rate, o.IterTime); err != nil {
		return nil, nil, err
	}
	slot, material, err := h.newSlot(ctx, newHash, key, passphrase, rate, o.IterTime)
	if err != nil {
		return nil, nil, err
	}
	slot.offset = h1.slots[0].offset
	h1.slots[0] = *slot
	if err := h.write(ctx, material, int64(slot.offset)*sectorSize); err != nil {
		return nil, nil, err
	}
	if err := h.write(ctx, h1.encode(), 0); err != nil {
		return nil, nil, err
	}
	return h, key, nil
}

// digestShare is how many times faster than a key slot the digest is checked, so
// that a wrong passphrase for all eight slots takes twice the time of a right one.
const digestShare = 8

func (h *Header) setDigest(ctx context.Context, newHash func() hash.Hash, key *Key, rate float64, d time.Duration) error {
	rand.Read(h.v1.digestSalt[:])
	iters, err := iterations(rate, newHash(), digestSize1, d, digestShare)
	if err != nil {
		return err
	}
	h.v1.digestIters = iters
	digest, err := pbkdf2(ctx, newHash, key.bytes, h.v1.digestSalt[:], int(iters), digestSize1)
	copy(h.v1.digest[:], digest)
	return err
}

// newSlot makes an active slot, without its offset, and its encrypted key material.
func (h *Header) newSlot(ctx context.Context, newHash func() hash.Hash, key *Key, passphrase []byte, rate float64, d time.Duration) (*slot1, []byte, error) {
	s := &slot1{state: slotOn1, stripes: stripes1}
	rand.Read(s.salt[:])
	var err error
	if s.iters, err = iterations(rate, newHash(), h.KeyBytes, d, 1); err != nil {
		return nil, nil, err
	}
	slotKey, err := pbkdf2(ctx, newHash, passphrase, s.salt[:], int(s.iters), h.KeyBytes)
	if err != nil {
		return nil, nil, err
	}
	defer clear(slotKey)
	material, err := h.seal(newHash, slotKey, key)
	return s, material, err
}

// seal splits the volume key and encrypts it with the key of a slot.
func (h *Header) seal(newHash func() hash.Hash, slotKey []byte, key *Key) ([]byte, error) {
	c, err := sector.New(h.Spec, slotKey, sectorSize)
	if err != nil {
		return nil, errorf(ErrUnsupported, "%w", err)
	}
	material := padSectors(afSplit(newHash, key.bytes, stripes1))
	c.Encrypt(material, material, 0)
	return material, nil
}

// write writes a part of the header and makes it durable.
func (h *Header) write(ctx context.Context, p []byte, off int64) error {
	if _, err := h.area.WriteAt(ctx, p, off); err != nil {
		return message.Errorf(nil, "could not write encryption header: %w", err)
	}
	if err := flush(ctx, h.area); err != nil {
		return message.Errorf(nil, "could not write encryption header: %w", err)
	}
	return nil
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
