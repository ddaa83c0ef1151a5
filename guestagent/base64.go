package guestagent

import (
	"encoding/base64"
	"errors"
	"strings"
)

// DecodeBase64 decodes as GLib does: characters come in groups of four over line ends,
// and what is left over of a group is dropped; "=" counts as 0, and takes one byte
// away where it is one of the last two of a group.
func DecodeBase64(s string) ([]byte, error) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	// What is well formed takes the fast path.
	if out, err := base64.StdEncoding.Strict().DecodeString(s); err == nil && !strings.ContainsRune(s, '\r') {
		return out, nil
	}
	out := make([]byte, 0, len(s)/4*3)
	var group uint32
	n := 0
	var last, before byte
	for i := range len(s) {
		c := s[i]
		if c == '\n' {
			continue
		}
		v := strings.IndexByte(alphabet, c)
		if v < 0 && c != '=' {
			return nil, errors.New("Base64 data contains invalid characters")
		}
		before, last = last, c
		group = group<<6 | uint32(max(v, 0))
		if n++; n < 4 {
			continue
		}
		out = append(out, byte(group>>16))
		if before != '=' {
			out = append(out, byte(group>>8))
		}
		if last != '=' {
			out = append(out, byte(group))
		}
		n, group = 0, 0
	}
	return out, nil
}
