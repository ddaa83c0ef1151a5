package deflate

import "testing"

// TestNoAllocation: an encoder that was used before needs no memory.
func TestNoAllocation(t *testing.T) {
	var e Encoder
	in := inputs()["mixed"]
	out := make([]byte, 0, 2*len(in))
	if n := testing.AllocsPerRun(5, func() { out, _ = e.Append(out[:0], in, 1<<30) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
