package iscsi

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/internal/message"
)

// Credentials are what CHAP (RFC 7143, 12.1.3) proves the knowledge of.
type Credentials struct {
	User, Secret string
}

// chapHashes are the algorithms by their numbers, the preferred one first. To some targets
// (IET, tgt) 7 is SHA-1, by an early draft.
var chapHashes = []struct {
	number string
	hash   func() hash.Hash
}{
	{"8", func() hash.Hash { return sha3.New256() }},
	{"7", sha256.New},
	{"6", sha1.New},
	{"5", md5.New},
}

// chapOld are the algorithms on whose numbers all targets agree.
const chapOld = "6,5"

func chapOffer() string {
	var list []string
	for _, h := range chapHashes {
		list = append(list, h.number)
	}
	return strings.Join(list, ",")
}

// maxChallenge is the longest value of CHAP in bytes.
const maxChallenge = 1024

// chap is an authentication under way.
type chap struct {
	offer     string // algorithms
	number    string // of the algorithm
	hash      func() hash.Hash
	id        byte // of our challenge to the target
	challenge []byte
}

// response is what proves the knowledge of a secret (RFC 1994, 4.1).
func (c *chap) response(id byte, secret string, challenge []byte) []byte {
	h := c.hash()
	h.Write([]byte{id})
	h.Write([]byte(secret))
	h.Write(challenge)
	return h.Sum(nil)
}

// answer answers the challenge of the target, and challenges it if target is not nil.
func (c *chap) answer(from texts, own, target *Credentials) (texts, error) {
	number, _ := from.get("CHAP_A")
	for _, h := range chapHashes {
		if h.number == number {
			c.number, c.hash = number, h.hash
		}
	}
	if c.hash == nil {
		return nil, protocolError("the target wants the unknown CHAP algorithm '%.10s'", number)
	}
	idText, _ := from.get("CHAP_I")
	id, err := strconv.ParseUint(idText, 0, 8)
	if err != nil {
		return nil, protocolError("the target sends no identifier for CHAP")
	}
	text, _ := from.get("CHAP_C")
	challenge, err := parseBinary(text)
	if err != nil || len(challenge) == 0 {
		return nil, protocolError("the target sends no challenge for CHAP")
	}
	t := texts{{"CHAP_N", own.User}, {"CHAP_R", formatBinary(c.response(byte(id), own.Secret, challenge))}}
	if target == nil {
		return t, nil
	}
	c.challenge = make([]byte, c.hash().Size())
	if _, err := rand.Read(c.challenge); err != nil {
		return nil, err
	}
	// An identifier of our own, so that our own answer proves nothing if it is sent back.
	c.id = byte(id) + 1
	t.add("CHAP_I", strconv.Itoa(int(c.id)))
	t.add("CHAP_C", formatBinary(c.challenge))
	return t, nil
}

// verify checks the answer of the target.
func (c *chap) verify(from texts, target *Credentials) error {
	name, _ := from.get("CHAP_N")
	text, _ := from.get("CHAP_R")
	got, err := parseBinary(text)
	if err != nil || len(c.challenge) == 0 || name != target.User || subtle.ConstantTimeCompare(got, c.response(c.id, target.Secret, c.challenge)) != 1 {
		return message.Errorf(ErrUnverified, "the target does not prove that it is '%s' (CHAP)", target.User)
	}
	return nil
}

func formatBinary(b []byte) string { return "0x" + hex.EncodeToString(b) }

// parseBinary reads a binary value (RFC 7143, 6.1).
func parseBinary(s string) ([]byte, error) {
	if len(s) > 2*maxChallenge+2 {
		return nil, protocolError("a binary value of the target is too long")
	}
	if len(s) >= 2 {
		switch s[:2] {
		case "0x", "0X":
			s = s[2:]
			if len(s)%2 != 0 {
				s = "0" + s
			}
			return hex.DecodeString(s)
		case "0b", "0B":
			return base64.StdEncoding.DecodeString(s[2:])
		}
	}
	return nil, protocolError("the target sends no binary value")
}
