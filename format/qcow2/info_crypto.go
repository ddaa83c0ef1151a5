package qcow2

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// encryptInfo is what "info" shows of encryption. The members stand in the order
// in which the original prints them.
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

// Places in a LUKS version 1 header (LUKS On-Disk Format Specification 1.2.3,
// section 3), which the crypto header extension points at.
const (
	luksMagic      = "LUKS\xba\xbe\x00\x01"
	luksCipher     = 8
	luksMode       = 40
	luksHash       = 72
	luksPayload    = 104 // sectors
	luksKeyBytes   = 108
	luksIterations = 164
	luksUUID       = 168
	luksSlots      = 208
	luksSlotSize   = 48
	luksSlotCount  = 8
	luksActive     = 0x00ac71f3
	luksSector     = 512
	luksHeaderSize = luksSlots + luksSlotCount*luksSlotSize
)

// loadEncryption reads what Info tells of encryption, nil if there is none.
func (im *image) loadEncryption(ctx context.Context) json.RawMessage {
	switch im.hdr.CryptMethod {
	case ondisk.CryptNone:
		return nil
	case ondisk.CryptAES:
		return json.RawMessage(`{"format":"aes"}`)
	}
	for _, e := range im.exts {
		if e.Type != ondisk.ExtCrypto || len(e.Data) < 16 {
			continue
		}
		off := be64(e.Data)
		if off >= uint64(im.file.Size()) {
			break
		}
		b := make([]byte, luksHeaderSize)
		if err := im.readPadded(ctx, im.file, b, int64(off)); err != nil || !strings.HasPrefix(string(b), luksMagic) {
			break
		}
		out, err := json.Marshal(luksInfo(b))
		if err != nil {
			break
		}
		return out
	}
	return json.RawMessage(`{"format":"luks"}`)
}

func luksInfo(b []byte) encryptInfo {
	text := func(off, n int) string {
		s, _, _ := bytes.Cut(b[off:off+n], []byte{0})
		return string(s)
	}
	mode, iv, _ := strings.Cut(text(luksMode, 32), "-")
	iv, ivHash, _ := strings.Cut(iv, ":")
	bits := int64(be32(b[luksKeyBytes:])) * 8
	if mode == "xts" {
		bits /= 2 // two keys
	}
	info := encryptInfo{Format: "luks", IVGen: iv, IVGenHash: ivHash, Hash: text(luksHash, 32), Mode: mode,
		Cipher: fmt.Sprintf("%s-%d", text(luksCipher, 32), bits), UUID: text(luksUUID, 40),
		PayloadOffset: int64(be32(b[luksPayload:])) * luksSector, Iterations: int64(be32(b[luksIterations:]))}
	for i := range luksSlotCount {
		s := b[luksSlots+i*luksSlotSize:]
		slot := luksSlot{Active: be32(s) == luksActive, KeyOffset: int64(be32(s[40:])) * luksSector}
		if slot.Active {
			iterations, stripes := int64(be32(s[4:])), int64(be32(s[44:]))
			slot.Iterations, slot.Stripes = &iterations, &stripes
		}
		info.Slots = append(info.Slots, slot)
	}
	return info
}
