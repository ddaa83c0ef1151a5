package luks

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/crypto/sector"
)

// Limits on what the text of a header may ask for.
const (
	maxSlots2    = 32
	maxKeySize2  = 512
	maxStripes2  = 4000 // all that is written
	maxSalt2     = 1024
	maxIters2    = math.MaxUint32
	maxMemory2   = 4 << 20 // KiB: the most that cryptsetup writes
	maxParallel2 = 255
	maxWork2     = 1 << 34 // KiB times passes: hours
)

const (
	priorityIgnore = iota
	priorityNormal
	priorityHigh
)

type slot2 struct {
	number   int
	keySize  int
	priority int
	area     area2
	kdf      kdf2
	stripes  int
	afHash   string
}

type area2 struct {
	offset, size int64
	encryption   sector.Spec
	keySize      int
}

type kdf2 struct {
	kind       string // pbkdf2, argon2i, argon2id
	hash       string // pbkdf2
	iterations uint32
	memory     int64 // bytes, argon2
	parallel   uint8 // argon2
	salt       []byte
}

type digest2 struct {
	hash         string
	iterations   uint32
	salt, digest []byte
}

type segment2 struct {
	offset, size int64 // size -1: dynamic
	ivTweak      uint64
	encryption   string
	sectorSize   int
}

// json2 is the JSON area of the header (section 3). 64-bit numbers are strings there.
type json2 struct {
	Keyslots map[string]keyslotText `json:"keyslots"`
	Segments map[string]segmentText `json:"segments"`
	Digests  map[string]digestText  `json:"digests"`
	Config   *configText            `json:"config"`
}

type keyslotText struct {
	Type     string `json:"type"`
	KeySize  int64  `json:"key_size"`
	Priority *int64 `json:"priority"`
	Area     struct {
		Type       string `json:"type"`
		Offset     string `json:"offset"`
		Size       string `json:"size"`
		Encryption string `json:"encryption"`
		KeySize    int64  `json:"key_size"`
	} `json:"area"`
	KDF kdfText `json:"kdf"`
	AF  struct {
		Type    string `json:"type"`
		Stripes int64  `json:"stripes"`
		Hash    string `json:"hash"`
	} `json:"af"`
}

type kdfText struct {
	Type       string `json:"type"`
	Salt       string `json:"salt"`
	Hash       string `json:"hash"`
	Iterations int64  `json:"iterations"`
	Time       int64  `json:"time"`
	Memory     int64  `json:"memory"` // KiB
	CPUs       int64  `json:"cpus"`
}

type segmentText struct {
	Type       string          `json:"type"`
	Offset     string          `json:"offset"`
	Size       string          `json:"size"`
	IVTweak    string          `json:"iv_tweak"`
	Encryption string          `json:"encryption"`
	SectorSize int64           `json:"sector_size"`
	Integrity  json.RawMessage `json:"integrity"`
	Flags      []string        `json:"flags"`
}

type digestText struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations int64    `json:"iterations"`
	Salt       string   `json:"salt"`
	Digest     string   `json:"digest"`
}

type configText struct {
	JSONSize     string `json:"json_size"`
	KeyslotsSize string `json:"keyslots_size"`
	Requirements struct {
		Mandatory []string `json:"mandatory"`
	} `json:"requirements"`
}

var errReencrypt = errorf(ErrUnsupported, "LUKS2 volume is being reencrypted: finish that with cryptsetup first")

var errNoKeyslot = errorf(ErrUnsupported, "LUKS2 volume has no keyslot for its payload")

func corruptJSON(format string, args ...any) error {
	return errorf(ErrCorrupt, "LUKS2 header: "+format, args...)
}

// parse2 reads the text of a header.
func parse2(text []byte) (*luks2, error) {
	var t json2
	if err := json.Unmarshal(text, &t); err != nil {
		return nil, corruptJSON("%w", err)
	}
	if t.Config == nil || t.Keyslots == nil || t.Segments == nil || t.Digests == nil {
		return nil, corruptJSON("an object that every header must have is missing")
	}
	if r := t.Config.Requirements.Mandatory; len(r) > 0 {
		if strings.Contains(r[0], "reencrypt") {
			return nil, errReencrypt
		}
		return nil, errorf(ErrUnsupported, "LUKS2 header requires '%.64s', which is not supported", r[0])
	}
	h := &luks2{}
	name, segment, err := t.segment()
	if err != nil {
		return nil, err
	}
	h.segment = segment
	keyslots, err := t.digest(name, &h.digest)
	if err != nil {
		return nil, err
	}
	if len(t.Keyslots) > maxSlots2 {
		return nil, corruptJSON("%d keyslots", len(t.Keyslots))
	}
	for id := range t.Keyslots {
		if !slices.Contains(keyslots, id) {
			continue // for nothing, or for another key
		}
		s, err := t.keyslot(id)
		if err != nil {
			return nil, err
		}
		h.slots = append(h.slots, s)
	}
	if len(h.slots) == 0 {
		return nil, errNoKeyslot
	}
	slices.SortFunc(h.slots, func(a, b slot2) int { return a.number - b.number })
	return h, nil
}

// number2 reads the name of an object, which is a small number.
func number2(what, s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, corruptJSON("%s '%.64s' has no number for a name", what, s)
	}
	return int(n), nil
}

// jsonSize reads a 64-bit number, a multiple of the unit.
func jsonSize(what, s string, unit int64) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n%unit != 0 {
		return 0, corruptJSON("%s '%.64s' is impossible", what, s)
	}
	return n, nil
}

func checkRange(what string, n, low, high int64) error {
	if n < low || n > high {
		return corruptJSON("%s %d is impossible", what, n)
	}
	return nil
}

// segment returns the one segment that there may be.
func (t *json2) segment() (string, segment2, error) {
	var name string
	var found *segmentText
	for id, s := range t.Segments {
		if slices.ContainsFunc(s.Flags, func(f string) bool { return strings.HasPrefix(f, "backup") }) {
			return "", segment2{}, errReencrypt
		}
		if found != nil {
			return "", segment2{}, errorf(ErrUnsupported, "LUKS2 volumes with several segments are not supported")
		}
		name, found = id, &s
	}
	if found == nil {
		return "", segment2{}, corruptJSON("there is no segment")
	}
	if _, err := number2("segment", name); err != nil {
		return "", segment2{}, err
	}
	s, err := found.parse()
	return name, s, err
}

func (s *segmentText) parse() (out segment2, err error) {
	if s.Type != "crypt" {
		return out, errorf(ErrUnsupported, "LUKS2 segments of type '%.64s' are not supported", s.Type)
	}
	if len(s.Integrity) > 0 {
		return out, errorf(ErrUnsupported, "LUKS2 volumes with integrity protection are not supported")
	}
	switch s.SectorSize {
	case 512, 1024, 2048, 4096:
		out.sectorSize = int(s.SectorSize)
	default:
		return out, corruptJSON("sector size %d is impossible", s.SectorSize)
	}
	if out.offset, err = jsonSize("segment offset", s.Offset, sectorSize); err != nil {
		return out, err
	}
	out.size = -1
	if s.Size != "dynamic" {
		if out.size, err = jsonSize("segment size", s.Size, s.SectorSize); err != nil {
			return out, err
		}
		if out.size > math.MaxInt64-out.offset {
			return out, corruptJSON("segment size %d is impossible", out.size)
		}
	}
	// Whole sectors only, so that the numbers of large ones are whole too.
	tweak, err := jsonSize("iv_tweak", s.IVTweak, s.SectorSize/sectorSize)
	if err != nil {
		return out, err
	}
	out.ivTweak, out.encryption = uint64(tweak), s.Encryption
	return out, nil
}

// digest reads the digest of a segment and returns the key slots that it is for.
func (t *json2) digest(segment string, into *digest2) ([]string, error) {
	var found *digestText
	for _, d := range t.Digests {
		if !slices.Contains(d.Segments, segment) {
			continue
		}
		if found != nil {
			return nil, corruptJSON("segment %s has several digests", segment)
		}
		found = &d
	}
	if found == nil {
		return nil, corruptJSON("segment %s has no digest", segment)
	}
	if found.Type != "pbkdf2" {
		return nil, errorf(ErrUnsupported, "LUKS2 digests of type '%.64s' are not supported", found.Type)
	}
	if err := checkRange("digest iteration count", found.Iterations, 1, maxIters2); err != nil {
		return nil, err
	}
	newHash, err := sector.Hash(found.Hash)
	if err != nil {
		return nil, errorf(ErrUnsupported, "PBKDF does not support hash algorithm %.64s", found.Hash)
	}
	into.hash, into.iterations = found.Hash, uint32(found.Iterations)
	if into.salt, err = base64Of("salt", found.Salt, maxSalt2); err != nil {
		return nil, err
	}
	if into.digest, err = base64Of("digest", found.Digest, newHash().Size()); err != nil {
		return nil, err
	}
	// A digest of a few bits would let any key through.
	if len(into.digest) < digestSize1 && len(into.digest) < newHash().Size() {
		return nil, corruptJSON("digest has %d bytes", len(into.digest))
	}
	return found.Keyslots, nil
}

func base64Of(what, s string, most int) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) == 0 || len(b) > most {
		return nil, corruptJSON("%s is impossible", what)
	}
	return b, nil
}

func (t *json2) keyslot(id string) (s slot2, err error) {
	k := t.Keyslots[id]
	if s.number, err = number2("keyslot", id); err != nil {
		return s, err
	}
	switch {
	case k.Type == "reencrypt":
		return s, errReencrypt
	case k.Type != "luks2":
		return s, errorf(ErrUnsupported, "LUKS2 keyslots of type '%.64s' are not supported", k.Type)
	case k.Area.Type != "raw":
		return s, errorf(ErrUnsupported, "LUKS2 keyslot areas of type '%.64s' are not supported", k.Area.Type)
	case k.AF.Type != "luks1":
		return s, errorf(ErrUnsupported, "LUKS2 keyslots with splitting of type '%.64s' are not supported", k.AF.Type)
	}
	s.priority = priorityNormal
	if k.Priority != nil {
		if err := checkRange("priority", *k.Priority, priorityIgnore, priorityHigh); err != nil {
			return s, err
		}
		s.priority = int(*k.Priority)
	}
	for _, c := range []struct {
		what         string
		n, low, high int64
	}{{"key size", k.KeySize, 1, maxKeySize2}, {"area key size", k.Area.KeySize, 1, maxKeySize2}, {"stripe count", k.AF.Stripes, 1, maxStripes2}} {
		if err := checkRange(c.what, c.n, c.low, c.high); err != nil {
			return s, err
		}
	}
	s.keySize, s.stripes, s.afHash, s.area.keySize = int(k.KeySize), int(k.AF.Stripes), k.AF.Hash, int(k.Area.KeySize)
	if s.area.offset, err = jsonSize("area offset", k.Area.Offset, 1); err != nil {
		return s, err
	}
	if s.area.size, err = jsonSize("area size", k.Area.Size, 1); err != nil {
		return s, err
	}
	if s.area.size > math.MaxInt64-s.area.offset {
		return s, corruptJSON("area size %d is impossible", s.area.size)
	}
	if s.area.encryption, err = parseSpec2(k.Area.Encryption); err != nil {
		return s, err
	}
	s.kdf, err = k.KDF.parse()
	return s, err
}

func (k *kdfText) parse() (out kdf2, err error) {
	out.kind = k.Type
	if out.salt, err = base64Of("salt", k.Salt, maxSalt2); err != nil {
		return out, err
	}
	switch k.Type {
	case "pbkdf2":
		out.hash, out.iterations = k.Hash, uint32(k.Iterations)
		return out, checkRange("iteration count", k.Iterations, 1, maxIters2)
	case "argon2i", "argon2id":
		if err := checkRange("argon2 time", k.Time, 1, maxIters2); err != nil {
			return out, err
		}
		if err := checkRange("argon2 memory", k.Memory, 1, maxMemory2); err != nil {
			return out, err
		}
		if err := checkRange("argon2 parallel count", k.CPUs, 1, maxParallel2); err != nil {
			return out, err
		}
		if k.Time > maxWork2/k.Memory {
			return out, errorf(ErrLimit, "LUKS2 keyslot asks for too much work: %d passes over %d KiB", k.Time, k.Memory)
		}
		out.iterations, out.memory, out.parallel = uint32(k.Time), k.Memory<<10, uint8(k.CPUs)
		return out, nil
	}
	return out, errorf(ErrUnsupported, "LUKS2 keyslots with key derivation of type '%.64s' are not supported", k.Type)
}
