package iscsi

import (
	"bytes"
	"strconv"
	"strings"
)

// Limits of the texts of a target.
const (
	maxLoginText  = 64 << 10
	maxTargetText = 4 << 20
	maxPairs      = 64 << 10
)

// pair is a key with its value.
type pair struct{ key, value string }

// texts is a list of keys with values, in order (RFC 7143, 6.1).
type texts []pair

func (t *texts) add(key, value string) { *t = append(*t, pair{key, value}) }

// get returns the first value of a key.
func (t texts) get(key string) (string, bool) {
	for _, p := range t {
		if p.key == key {
			return p.value, true
		}
	}
	return "", false
}

func (t texts) encode() []byte {
	var b []byte
	for _, p := range t {
		b = append(append(append(append(b, p.key...), '='), p.value...), 0)
	}
	return b
}

// parseTexts reads what encode writes.
func parseTexts(b []byte) (texts, error) {
	var t texts
	for item := range bytes.SplitSeq(b, []byte{0}) {
		if len(item) == 0 {
			continue
		}
		key, value, ok := strings.Cut(string(item), "=")
		if !ok || key == "" {
			return nil, protocolError("the target sends a text without a key")
		}
		if len(t) >= maxPairs {
			return nil, protocolError("the target sends more than %d keys", maxPairs)
		}
		t.add(key, value)
	}
	return t, nil
}

// number reads a numerical value within bounds (RFC 7143, 6.1).
func number(key, value string, low, high int) (int, error) {
	n, err := strconv.ParseUint(value, 0, 32)
	if err != nil || int64(n) < int64(low) || int64(n) > int64(high) {
		return 0, protocolError("the target sends %s=%.40s, not a number from %d to %d", key, value, low, high)
	}
	return int(n), nil
}
