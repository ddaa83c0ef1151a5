package http

import "testing"

// TestSpoolForgets: what a read under way may want is kept, however far others are.
func TestSpoolForgets(t *testing.T) {
	s := &spool{more: make(chan struct{}), sequential: true}
	for range 96 {
		if err := s.add(make([]byte, spoolStep)); err != nil {
			t.Fatal(err)
		}
	}
	p := make([]byte, spoolStep)
	s.reads = []int64{0, 22 << 20}
	if !s.fromMemory(p, 22<<20) || s.base != 0 {
		t.Errorf("forgot up to %d, which is still read", s.base)
	}
	s.reads = []int64{23 << 20}
	if !s.fromMemory(p, 23<<20) || s.base < 6<<20 || s.base > 7<<20+spoolStep {
		t.Errorf("forgot up to %d of 23 MiB", s.base)
	}
	if s.fromMemory(p, 0) || !s.file {
		t.Error("what was forgotten needs no file")
	}
}
