package luks

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"github.com/cowl-disk/cowl/internal/message"
)

// AddOptions say how AddKey adds a key.
type AddOptions struct {
	// Slot is where the key goes, nil: to the first free slot.
	Slot *int64
	// IterTime is that of CreateOptions.
	IterTime time.Duration
	// Force allows to overwrite an active slot.
	Force bool
}

// EraseOptions say which slots EraseKey erases.
type EraseOptions struct {
	// Slot is the slot to erase, nil: all that Passphrase opens.
	Slot *int64
	// Passphrase must open the slot if it is not nil.
	Passphrase []byte
	// Force allows to erase the last slots, so that the volume can never be opened
	// again, and those that are free already.
	Force bool
}

// slotCount is how many key slots there may be.
func (h *Header) slotCount() int64 {
	if h.v2 != nil {
		return maxSlots2
	}
	return slotCount1
}

func (h *Header) slotRange(slot int64, signed bool) error {
	switch most := h.slotCount() - 1; {
	case slot >= 0 && slot <= most:
		return nil
	case signed:
		return errorf(ErrInvalid, "invalid keyslot %d specified, must be between 0 and %d", int32(slot), most)
	default:
		return errorf(ErrInvalid, "invalid keyslot %d specified, must be between 0 and %d", uint32(slot), most)
	}
}

// active returns the numbers of the active slots.
func (h *Header) active() (list []int) {
	if h.v2 != nil {
		for _, s := range h.v2.slots {
			list = append(list, s.number)
		}
		return list
	}
	for i := range h.v1.slots {
		if h.v1.slots[i].active() {
			list = append(list, i)
		}
	}
	return list
}

func (h *Header) isActive(slot int) bool { return slices.Contains(h.active(), slot) }

func (h *Header) freeSlot() int {
	if h.v2 != nil {
		return h.v2.freeSlot()
	}
	for i := range h.v1.slots {
		if !h.v1.slots[i].active() {
			return i
		}
	}
	return -1
}

// CanAddKey tells what AddKey would refuse before any passphrase is needed.
func (h *Header) CanAddKey(o AddOptions) error {
	if o.Slot == nil {
		if h.freeSlot() < 0 {
			return errorf(ErrInvalid, "can't add a keyslot - all keyslots are in use")
		}
		return nil
	}
	if err := h.slotRange(*o.Slot, false); err != nil {
		return err
	}
	if h.isActive(int(*o.Slot)) && !o.Force {
		return errorf(ErrInvalid, "refusing to overwrite active keyslot %d - please erase it first", *o.Slot)
	}
	return nil
}

// AddKey lets another passphrase open the volume, and returns its slot. After a crash at any moment the volume opens with a passphrase that opened
// it before, or with the new one.
func (h *Header) AddKey(ctx context.Context, k *Key, passphrase []byte, o AddOptions) (int, error) {
	if err := h.CanAddKey(o); err != nil {
		return 0, err
	}
	if o.IterTime == 0 {
		o.IterTime = DefaultIterTime
	}
	if h.v2 != nil {
		return h.addKey2(ctx, k, passphrase, o)
	}
	newHash, err := h.hash1()
	if err != nil {
		return 0, err
	}
	rate, err := pbkdf2Rate(ctx, newHash, o.IterTime)
	if err != nil {
		return 0, err
	}
	s, material, err := h.newSlot(ctx, newHash, k, passphrase, rate, o.IterTime)
	if err != nil {
		return 0, err
	}
	slot := h.freeSlot()
	if o.Slot != nil {
		slot = int(*o.Slot)
	}
	// What is in the slot is lost once its key material is overwritten, and the new
	// key is not there before all is written: meanwhile it has a slot of its own.
	spare := -1
	if h.v1.slots[slot].active() {
		if spare = h.freeSlot(); spare >= 0 {
			if err := h.store(ctx, spare, *s, material); err != nil {
				return 0, message.Errorf(nil, "failed to write to keyslot %d: %w", spare, err)
			}
		}
	}
	if err := h.store(ctx, slot, *s, material); err != nil {
		return 0, message.Errorf(nil, "failed to write to keyslot %d: %w", slot, err)
	}
	if spare >= 0 {
		if err := h.erase(ctx, spare); err != nil {
			return 0, err
		}
	}
	return slot, nil
}

// store writes a slot: first its key material, then its record, so that an active
// slot is a whole one.
func (h *Header) store(ctx context.Context, slot int, s slot1, material []byte) error {
	s.offset = h.v1.slots[slot].offset
	if off := int64(s.offset) * sectorSize; off > h.areaSize-int64(len(material)) {
		return errorf(ErrCorrupt, "key material at %d lies beyond the end of the volume", off)
	} else if err := h.write(ctx, material, off); err != nil {
		return err
	}
	return h.setSlot(ctx, slot, s)
}

func (h *Header) setSlot(ctx context.Context, slot int, s slot1) error {
	if err := h.write(ctx, s.encode(), slotTable1+int64(slot)*slotSize1); err != nil {
		return err
	}
	h.v1.slots[slot] = s
	return nil
}

// erase frees a slot and overwrites its key material. The record goes first: without
// it, the rest of the key material cannot be taken for a key.
func (h *Header) erase(ctx context.Context, slot int) error {
	if h.v2 != nil {
		return h.erase2(ctx, slot)
	}
	fail := func(err error) error { return message.Errorf(nil, "failed to erase keyslot %d: %w", slot, err) }
	s := h.v1.slots[slot]
	err := h.setSlot(ctx, slot, slot1{state: slotOff1, offset: s.offset, stripes: s.stripes})
	noise := make([]byte, min(h.v1.slotSectors()*sectorSize, h.areaSize-int64(s.offset)*sectorSize))
	rand.Read(noise)
	// Even if the record could not be written: the key must be erased.
	if err := errors.Join(err, h.write(ctx, noise, int64(s.offset)*sectorSize)); err != nil {
		return fail(err)
	}
	return nil
}

// EraseKey erases slots and overwrites their key material. ErrLastKey:
// no slot would be left.
func (h *Header) EraseKey(ctx context.Context, o EraseOptions) error {
	if o.Slot != nil {
		return h.eraseOne(ctx, o)
	}
	if o.Passphrase == nil {
		return errorf(ErrInvalid, "to erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given")
	}
	var match []int
	all := h.active()
	for _, slot := range all {
		ok, err := h.opens(ctx, slot, o.Passphrase)
		if err != nil {
			return err
		}
		if ok {
			match = append(match, slot)
		}
	}
	switch {
	case len(match) == 0:
		return errorf(ErrInvalid, "no keyslots match given (old) password for erase operation")
	case len(match) == len(all) && !o.Force:
		return errorf(ErrLastKey, "all the active keyslots match the (old) password that was given and erasing them will erase all the data in the image irreversibly - refusing operation")
	}
	for _, slot := range match {
		if err := h.erase(ctx, slot); err != nil {
			return err
		}
	}
	return nil
}

// opens says whether a passphrase opens an active slot.
func (h *Header) opens(ctx context.Context, slot int, passphrase []byte) (bool, error) {
	k, err := h.unlockSlot(ctx, slot, passphrase)
	if errors.Is(err, errWrongKey) {
		return false, nil
	}
	k.Wipe()
	return err == nil, err
}

func (h *Header) eraseOne(ctx context.Context, o EraseOptions) error {
	if err := h.slotRange(*o.Slot, true); err != nil {
		return err
	}
	slot := int(*o.Slot)
	isActive := h.isActive(slot)
	if o.Passphrase != nil {
		ok := false
		if isActive {
			var err error
			if ok, err = h.opens(ctx, slot, o.Passphrase); err != nil {
				return err
			}
		}
		if !ok {
			return errorf(ErrInvalid, "given keyslot %d doesn't contain the given old password for erase operation", slot)
		}
	}
	switch {
	case !isActive && !o.Force:
		return errorf(ErrInvalid, "given keyslot %d is already erased (inactive)", slot)
	case len(h.active()) == 1 && !o.Force:
		return errorf(ErrLastKey, "attempt to erase the only active keyslot %d which will erase all the data in the image irreversibly - refusing operation", slot)
	}
	return h.erase(ctx, slot)
}
