package iscsid

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

var errRefused = errors.New("refused")

// keys splits a text.
func keys(data []byte) map[string]string {
	m := map[string]string{}
	for item := range strings.SplitSeq(string(data), "\x00") {
		if k, v, ok := strings.Cut(item, "="); ok {
			m[k] = v
		}
	}
	return m
}

func pick(n, standard int) int {
	if n == 0 {
		return standard
	}
	return n
}

// chapHash computes an answer.
func chapHash(algorithm int, id byte, secret string, challenge []byte) string {
	b := append(append([]byte{id}, secret...), challenge...)
	var sum []byte
	switch algorithm {
	case 6:
		s := sha1.Sum(b)
		sum = s[:]
	case 7:
		s := sha256.Sum256(b)
		sum = s[:]
	case 8:
		s := sha3.Sum256(b)
		sum = s[:]
	default:
		s := md5.Sum(b)
		sum = s[:]
	}
	return "0x" + hex.EncodeToString(sum)
}

// login serves the login.
func (c *conn) login() error {
	challenge := []byte("0123456789abcdef")
	algorithm, known := pick(c.s.Algorithm, 5), pick(c.s.Algorithm, 5)
	if c.s.Draft && algorithm == 7 {
		algorithm = 6
	}
	authenticated := c.s.User == ""
	c.maxReceive, c.maxBurst, c.firstBurst = pick(c.s.MaxReceive, 8192), pick(c.s.MaxBurst, 256<<10), pick(c.s.FirstBurst, 64<<10)
	c.sending.Lock()
	c.window, c.maxSend = uint32(pick(c.s.Window, 128)), 8192
	c.sending.Unlock()
	header, data := false, false
	for {
		h, text, err := c.recv()
		if err != nil {
			return err
		}
		if h[0]&0x3f != 3 {
			return errRefused
		}
		c.sending.Lock()
		c.cmdSN = binary.BigEndian.Uint32(h[24:])
		c.sending.Unlock()
		k := keys(text)
		var out bytes.Buffer
		say := func(key, value string) { fmt.Fprintf(&out, "%s=%s\x00", key, value) }
		r := [48]byte{0: 0x23, 1: h[1]}
		copy(r[8:20], h[8:20])
		r[15] = 1
		fail := func(class, detail byte) error {
			r[1], r[36], r[37] = 0, class, detail
			c.numbers(&r)
			_ = c.send(&r, out.Bytes())
			return errRefused
		}
		if k["SessionType"] == "Discovery" {
			c.discovery = true
		}
		if c.s.Redirect != "" {
			say("TargetAddress", c.s.Redirect)
			if c.s.Permanent {
				return fail(1, 2)
			}
			return fail(1, 1)
		}
		if name, ok := k["TargetName"]; ok && name != c.s.Name {
			return fail(2, 3)
		}
		stage := h[1] >> 2 & 3
		if methods, ok := k["AuthMethod"]; ok {
			offered := strings.Split(methods, ",")
			switch {
			case authenticated && slices.Contains(offered, "None"):
				say("AuthMethod", "None")
			case slices.Contains(offered, "CHAP"):
				say("AuthMethod", "CHAP")
				r[1] &^= 0x83
				authenticated = false
			default:
				return fail(2, 1)
			}
		}
		if list, ok := k["CHAP_A"]; ok {
			if c.s.Draft && !slices.Contains(strings.Split(list, ","), "7") {
				known, algorithm = 5, 5
			}
			if !slices.Contains(strings.Split(list, ","), strconv.Itoa(known)) {
				return fail(2, 1)
			}
			say("CHAP_A", strconv.Itoa(known))
			say("CHAP_I", "7")
			say("CHAP_C", "0x"+hex.EncodeToString(challenge))
		}
		if answer, ok := k["CHAP_R"]; ok {
			if k["CHAP_N"] != c.s.User || answer != chapHash(algorithm, 7, c.s.Secret, challenge) {
				return fail(2, 1)
			}
			authenticated = true
			if theirs, ok := k["CHAP_C"]; ok && c.s.TargetUser != "" {
				id, _ := strconv.Atoi(k["CHAP_I"])
				b, _ := hex.DecodeString(strings.TrimPrefix(theirs, "0x"))
				say("CHAP_N", c.s.TargetUser)
				say("CHAP_R", chapHash(algorithm, byte(id), c.s.TargetSecret, b))
			}
		}
		if stage == 1 {
			if !authenticated {
				return fail(2, 1)
			}
			header, data = c.negotiate(k, say)
		}
		c.numbers(&r)
		if err := c.send(&r, out.Bytes()); err != nil {
			return err
		}
		if r[1]&0x80 != 0 && r[1]&3 == 3 {
			c.sending.Lock()
			c.headerDigest, c.dataDigest = header, data
			c.sending.Unlock()
			c.s.Logins.Add(1)
			return nil
		}
	}
}

// negotiate answers operational keys.
func (c *conn) negotiate(k map[string]string, say func(key, value string)) (header, data bool) {
	digest := func(key string) bool {
		offered := strings.Split(k[key], ",")
		use := c.s.Digests && slices.Contains(offered, "CRC32C") || !slices.Contains(offered, "None")
		say(key, map[bool]string{true: "CRC32C", false: "None"}[use])
		return use
	}
	header, data = digest("HeaderDigest"), digest("DataDigest")
	say("MaxRecvDataSegmentLength", strconv.Itoa(c.maxReceive))
	if n, err := strconv.Atoi(k["MaxRecvDataSegmentLength"]); err == nil {
		c.maxSend = n
	}
	if c.discovery {
		return header, data
	}
	lower := func(key string, own int) int {
		n, err := strconv.Atoi(k[key])
		if err != nil {
			n = own
		}
		n = min(n, own)
		say(key, strconv.Itoa(n))
		return n
	}
	c.maxBurst, c.firstBurst = lower("MaxBurstLength", c.maxBurst), lower("FirstBurstLength", c.firstBurst)
	lower("MaxOutstandingR2T", 1)
	c.unasked, c.attached = c.s.Unasked, !c.s.NoUnasked
	say("InitialR2T", map[bool]string{true: "No", false: "Yes"}[c.unasked])
	say("ImmediateData", map[bool]string{true: "Yes", false: "No"}[c.attached])
	return header, data
}
