package qcow2

import "github.com/cowl-disk/cowl/crypto/luks"

// encryptInfo is what "info" shows of encryption. The members are in the order
// in which QEMU prints them.
type encryptInfo struct {
	IVGen          string     `json:"ivgen-alg,omitempty"`
	IVGenHash      string     `json:"ivgen-hash-alg,omitempty"`
	DetachedHeader bool       `json:"detached-header"`
	Hash           string     `json:"hash-alg"`
	Cipher         string     `json:"cipher-alg"`
	UUID           string     `json:"uuid"`
	Format         string     `json:"format"`
	Mode           string     `json:"cipher-mode"`
	Slots          []luksSlot `json:"slots"`
	PayloadOffset  int64      `json:"payload-offset"`
	Iterations     int64      `json:"master-key-iters"`
}

type luksSlot struct {
	Active     bool   `json:"active"`
	Iterations *int64 `json:"iters,omitempty"`
	KeyOffset  int64  `json:"key-offset"`
	Stripes    *int64 `json:"stripes,omitempty"`
}

func luksInfo(h luks.Info) encryptInfo {
	info := encryptInfo{Format: "luks", IVGen: h.IVGenAlg, IVGenHash: h.IVGenHashAlg, Hash: h.HashAlg, Cipher: h.CipherAlg,
		UUID: h.UUID, Mode: h.CipherMode, PayloadOffset: h.PayloadOffset, Iterations: h.MasterKeyIters}
	for _, s := range h.Slots {
		info.Slots = append(info.Slots, luksSlot{Active: s.Active, Iterations: s.Iters, KeyOffset: s.KeyOffset, Stripes: s.Stripes})
	}
	return info
}
