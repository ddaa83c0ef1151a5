package luks

import "github.com/cowl-disk/cowl/crypto/sector"

// Info is what "info" shows of a volume. The members are in the order in which
// QEMU prints them.
type Info struct {
	Version        int        `json:"version,omitempty"` // only for 2: QEMU knows version 1 only
	IVGenAlg       string     `json:"ivgen-alg,omitempty"`
	DetachedHeader bool       `json:"detached-header"`
	HashAlg        string     `json:"hash-alg,omitempty"`
	CipherAlg      string     `json:"cipher-alg"`
	UUID           string     `json:"uuid"`
	IVGenHashAlg   string     `json:"ivgen-hash-alg,omitempty"`
	CipherMode     string     `json:"cipher-mode"`
	Label          string     `json:"label,omitempty"`
	SectorSize     int64      `json:"sector-size,omitempty"` // version 2
	Slots          []SlotInfo `json:"slots"`
	PayloadOffset  int64      `json:"payload-offset"`
	MasterKeyIters int64      `json:"master-key-iters"`
}

// SlotInfo describes a key slot. Optional members are nil or empty where a slot does
// not have them.
type SlotInfo struct {
	Slot      *int64 `json:"keyslot,omitempty"` // version 2, whose slots need not be consecutive
	Active    bool   `json:"active"`
	KDF       string `json:"kdf,omitempty"` // version 2
	Iters     *int64 `json:"iters,omitempty"`
	Memory    *int64 `json:"memory,omitempty"` // bytes, argon2
	Parallel  *int64 `json:"parallel,omitempty"`
	KeyOffset int64  `json:"key-offset"`
	Stripes   *int64 `json:"stripes,omitempty"`
}

// Info describes the volume.
func (h *Header) Info() Info {
	info := Info{IVGenAlg: h.Spec.IVGen, IVGenHashAlg: h.Spec.IVHash, CipherMode: h.Spec.Mode, UUID: h.UUID,
		CipherAlg: cipherTitle(h.Spec, h.KeyBytes), PayloadOffset: h.PayloadOffset}
	if h.v2 != nil {
		h.v2.info(h, &info)
		return info
	}
	info.HashAlg, info.MasterKeyIters = h.v1.hash, int64(h.v1.digestIters)
	for i := range h.v1.slots {
		s := &h.v1.slots[i]
		slot := SlotInfo{Active: s.active(), KeyOffset: int64(s.offset) * sectorSize}
		if slot.Active {
			iters, stripes := int64(s.iters), int64(s.stripes)
			slot.Iters, slot.Stripes = &iters, &stripes
		}
		info.Slots = append(info.Slots, slot)
	}
	return info
}

// cipherTitle names a cipher as options do, or as its header does if those have no
// name for it.
func cipherTitle(spec sector.Spec, keyBytes int) string {
	if name := algorithmName(spec, keyBytes); name != "" {
		return name
	}
	return spec.Cipher
}
