package ops

import "testing"

// TestRemoteTarget wants several writes under way to a target on another machine, whatever number of processors
// there is.
func TestRemoteTarget(t *testing.T) {
	c := &converter{remote: true}
	if n := c.workers(); n != 8 {
		t.Errorf("%d workers", n)
	}
}
