package luks

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/cowl-disk/cowl/internal/message"
)

// freeSlot is the first number that no key slot has, of any key; -1 if there is none.
func (h *luks2) freeSlot() int {
	var t json2
	if json.Unmarshal(h.copy.text, &t) != nil {
		return -1 // not reached: it was parsed
	}
	for i := range maxSlots2 {
		if _, ok := t.Keyslots[strconv.Itoa(i)]; !ok {
			return i
		}
	}
	return -1
}

func (h *luks2) slot(number int) *slot2 {
	for i := range h.slots {
		if h.slots[i].number == number {
			return &h.slots[i]
		}
	}
	return nil
}

// unlockSlot opens one active slot; errWrongKey: another passphrase does.
func (h *Header) unlockSlot(ctx context.Context, slot int, passphrase []byte) (*Key, error) {
	if h.v2 != nil {
		return h.unlockSlot2(ctx, h.v2.slot(slot), passphrase)
	}
	return h.unlockSlot1(ctx, slot, passphrase)
}

// addKey2 writes the key material to room that no slot has, and then the header that names
// it: whatever happens, the volume opens as before or with the new key too.
func (h *Header) addKey2(ctx context.Context, k *Key, passphrase []byte, o AddOptions) (int, error) {
	like := h.v2.slot(k.slot)
	if like == nil { // it was erased since
		if len(h.v2.slots) == 0 {
			return 0, errNoKeyslot
		}
		like = &h.v2.slots[0]
	}
	create := CreateOptions{PBKDF: like.kdf.kind, HashAlg: like.afHash, IterTime: o.IterTime}
	s, material, err := h.newSlot2(ctx, create, k, passphrase)
	if err != nil {
		return 0, err
	}
	number := h.freeSlot()
	if o.Slot != nil {
		number = int(*o.Slot)
	}
	old := h.v2.slot(number)
	err = h.rewrite(ctx, func(doc document) error {
		slots, err := doc.object("keyslots")
		if err != nil {
			return err
		}
		name := strconv.Itoa(number)
		if slots[name] != nil && old == nil {
			return errorf(ErrUnsupported, "keyslot %d is not for the payload: use cryptsetup to change it", number)
		}
		if s.area.offset, err = h.freeArea2(doc, s.area.size); err != nil {
			return err
		}
		if err := h.write(ctx, material, s.area.offset); err != nil {
			return message.Errorf(nil, "failed to write to keyslot %d: %w", number, err)
		}
		if slots[name], err = json.Marshal(s.text(h.v2.segment.encryption)); err != nil {
			return err
		}
		if err := doc.put("keyslots", slots); err != nil {
			return err
		}
		return link2(doc, number, true)
	})
	if err != nil {
		return 0, err
	}
	if old != nil {
		if err := h.noise(ctx, old); err != nil {
			return 0, err
		}
	}
	return number, nil
}

// erase2 takes a slot out of the header and overwrites its key material.
func (h *Header) erase2(ctx context.Context, number int) error {
	old := h.v2.slot(number)
	if old == nil {
		return nil // free already
	}
	err := h.rewrite(ctx, func(doc document) error {
		slots, err := doc.object("keyslots")
		if err != nil {
			return err
		}
		delete(slots, strconv.Itoa(number))
		if err := doc.put("keyslots", slots); err != nil {
			return err
		}
		return link2(doc, number, false)
	})
	// Even if the header could not be written: the key must be erased.
	if err := errors.Join(err, h.noise(ctx, old)); err != nil {
		return message.Errorf(nil, "failed to erase keyslot %d: %w", number, err)
	}
	return nil
}

// noise overwrites the key material of a slot.
func (h *Header) noise(ctx context.Context, s *slot2) error {
	noise := make([]byte, max(0, min(s.area.size, maxKeySize2*maxStripes2, h.areaSize-s.area.offset)))
	rand.Read(noise)
	return h.write(ctx, noise, s.area.offset)
}
