package luks

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/cowl-disk/cowl/crypto/sector"
)

// salt2 is where a copy of the header has 64 random bytes (section 2.1), so that no two are equal.
const (
	salt2     = 104
	saltLen2  = 64
	areaUnit2 = 4096 // of key slot areas
)

// document is the text of a header by its objects. What is not known is kept as it is.
type document map[string]json.RawMessage

// object returns one of the objects by names: of key slots, digests, tokens.
func (d document) object(name string) (map[string]json.RawMessage, error) {
	o := map[string]json.RawMessage{}
	if d[name] == nil {
		return o, nil
	}
	if err := json.Unmarshal(d[name], &o); err != nil {
		return nil, corruptJSON("%s: %w", name, err)
	}
	return o, nil
}

// put replaces one of the objects.
func (d document) put(name string, value any) error {
	text, err := json.Marshal(value)
	d[name] = text
	return err
}

// rewrite changes the text of the header in both copies, the first one before the second:
// one of them is whole at any time. What is read again from the new text is what h has
// then.
func (h *Header) rewrite(ctx context.Context, change func(document) error) error {
	old := h.v2.copy
	var doc document
	if err := json.Unmarshal(old.text, &doc); err != nil {
		return corruptJSON("%w", err)
	}
	if err := change(doc); err != nil {
		return err
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	if int64(len(text)) >= old.size-binarySize2 {
		return errorf(ErrInvalid, "the LUKS2 header has no room for %d bytes of text", len(text))
	}
	next := *old
	next.seqID, next.text = old.seqID+1, text
	h2, err := parse2(text)
	if errors.Is(err, errNoKeyslot) { // the last one was erased
		h2, err = &luks2{digest: h.v2.digest, segment: h.v2.segment}, nil
	}
	if err != nil {
		return err
	}
	h2.label, h2.copy = next.label, &next
	for _, off := range []int64{0, old.size} {
		b, err := next.encode(off)
		if err != nil {
			return err
		}
		if err := h.write(ctx, b, off); err != nil {
			return err
		}
	}
	h.v2 = h2
	return nil
}

// encode returns the copy of the header that lies at off.
func (c *headerCopy) encode(off int64) ([]byte, error) {
	b := make([]byte, c.size)
	copy(b, c.binary)
	copy(b, magic)
	if off > 0 {
		copy(b, secondaryMagic)
	}
	be := binary.BigEndian
	be.PutUint64(b[headerLen2:], uint64(c.size))
	be.PutUint64(b[seqID2:], c.seqID)
	be.PutUint64(b[offset2:], uint64(off))
	rand.Read(b[salt2 : salt2+saltLen2])
	copy(b[binarySize2:], c.text)
	name, _ := text(b[checksum2 : checksum2+sumNameLen])
	newHash, err := sector.Hash(name)
	if err != nil {
		return nil, errorf(ErrUnsupported, "LUKS2 header has a checksum of unknown kind '%s'", name)
	}
	clear(b[sum2 : sum2+sumLen2])
	sum := newHash()
	sum.Write(b)
	copy(b[sum2:sum2+sumLen2], sum.Sum(nil))
	return b, nil
}

// decimal is a 64-bit number as the text has it.
func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func (s *slot2) text(encryption string) map[string]any {
	kdf := map[string]any{"type": s.kdf.kind, "salt": base64.StdEncoding.EncodeToString(s.kdf.salt)}
	if s.kdf.kind == "pbkdf2" {
		kdf["hash"], kdf["iterations"] = s.kdf.hash, s.kdf.iterations
	} else {
		kdf["time"], kdf["memory"], kdf["cpus"] = s.kdf.iterations, s.kdf.memory>>10, s.kdf.parallel
	}
	return map[string]any{
		"type": "luks2", "key_size": s.keySize, "kdf": kdf,
		"af": map[string]any{"type": "luks1", "stripes": s.stripes, "hash": s.afHash},
		"area": map[string]any{"type": "raw", "offset": decimal(s.area.offset), "size": decimal(s.area.size), "encryption": encryption,
			"key_size": s.area.keySize},
	}
}

// areaSizeFor is how much room the key material of a slot takes.
func areaSizeFor(keyBytes int) int64 {
	return (int64(keyBytes)*maxStripes2 + areaUnit2 - 1) / areaUnit2 * areaUnit2
}

// freeArea2 finds room for the key material of another slot.
func (h *Header) freeArea2(doc document, size int64) (int64, error) {
	slots, err := doc.object("keyslots")
	if err != nil {
		return 0, err
	}
	type span struct{ begin, end int64 }
	var used []span
	for name, text := range slots {
		var s keyslotText
		if err := json.Unmarshal(text, &s); err != nil {
			return 0, corruptJSON("keyslot %s: %w", name, err)
		}
		begin, err := jsonSize("area offset", s.Area.Offset, 1)
		if err != nil {
			return 0, err
		}
		n, err := jsonSize("area size", s.Area.Size, 1)
		if err != nil {
			return 0, err
		}
		if n > math.MaxInt64-areaUnit2-begin {
			return 0, corruptJSON("area size %d is impossible", n)
		}
		used = append(used, span{begin, begin + n})
	}
	slices.SortFunc(used, func(a, b span) int { return int(min(max(a.begin-b.begin, -1), 1)) })
	var config configText
	if err := json.Unmarshal(doc["config"], &config); err != nil {
		return 0, corruptJSON("config: %w", err)
	}
	room, err := jsonSize("keyslots size", config.KeyslotsSize, 1)
	if err != nil {
		return 0, err
	}
	at := 2 * h.v2.copy.size
	end := h.areaSize
	if room < end-at {
		end = at + room
	}
	if h.PayloadOffset > 0 {
		end = min(end, h.PayloadOffset)
	}
	for _, u := range used {
		if u.begin-at >= size {
			break
		}
		at = max(at, (u.end+areaUnit2-1)/areaUnit2*areaUnit2)
	}
	if end-at < size {
		return 0, errorf(ErrInvalid, "the LUKS2 header has no room for the key material of another keyslot")
	}
	return at, nil
}

// link2 adds a key slot to the digest of the payload's segment, or takes it away, there and
// in tokens.
func link2(doc document, slot int, add bool) error {
	name := strconv.Itoa(slot)
	for _, list := range []string{"digests", "tokens"} {
		objects, err := doc.object(list)
		if err != nil {
			return err
		}
		for id, text := range maps.Clone(objects) {
			var o map[string]json.RawMessage
			var slots, segments []string
			if err := json.Unmarshal(text, &o); err != nil {
				return corruptJSON("%s: %w", list, err)
			}
			if o["keyslots"] == nil {
				continue
			}
			if err := json.Unmarshal(o["keyslots"], &slots); err != nil {
				return corruptJSON("%s: %w", list, err)
			}
			_ = json.Unmarshal(o["segments"], &segments) // tokens have none
			slots = slices.DeleteFunc(slots, func(s string) bool { return s == name })
			if add && list == "digests" && len(segments) > 0 {
				slots = append(slots, name)
			}
			if slots == nil {
				slots = []string{}
			}
			if o["keyslots"], err = json.Marshal(slots); err != nil {
				return err
			}
			if objects[id], err = json.Marshal(o); err != nil {
				return err
			}
		}
		if err := doc.put(list, objects); err != nil {
			return err
		}
	}
	return nil
}
