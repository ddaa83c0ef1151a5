package freebsd

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// TestParseUtx reads records of users, of something else, and one that is cut.
func TestParseUtx(t *testing.T) {
	record := func(kind byte, user string, microseconds uint64) []byte {
		r := make([]byte, utxBytes)
		r[0] = kind
		binary.BigEndian.PutUint64(r[1:], microseconds)
		copy(r[9:], "id")
		copy(r[21:], user)
		copy(r[53:], "ttyv0")
		return r
	}
	var data []byte
	for _, r := range [][]byte{
		record(utxUserProcess, "u", 1_700_000_005_500_000), record(1, "boot", 1), record(utxUserProcess, "root", 1_600_000_000_000_000),
		record(utxUserProcess, "u", 1_700_000_000_250_000), record(7, "dead", 1), record(utxUserProcess, "cut", 1)[:100],
	} {
		data = append(data, r...)
	}
	if got := fmt.Sprint(parseUtx(data)); got != "[{u 1.70000000025e+09} {root 1.6e+09}]" {
		t.Error(got)
	}
	if got := parseUtx(nil); got == nil || len(got) != 0 {
		t.Errorf("%v", got)
	}
}
