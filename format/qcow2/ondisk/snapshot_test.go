package ondisk

import "testing"

// TestSnapshotNamesEnd: an id and a name end with the first zero byte, as for QEMU; the
// length of the entry does not.
func TestSnapshotNamesEnd(t *testing.T) {
	b := make([]byte, 48)
	b[13], b[15] = 3, 4
	copy(b[40:], "1\x00xab\x00c")
	s, n, err := DecodeSnapshot(b)
	if err != nil || n != 48 || s.ID != "1" || s.Name != "ab" {
		t.Errorf("%q %q, %d bytes, %v", s.ID, s.Name, n, err)
	}
}
