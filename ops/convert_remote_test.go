package ops

import "testing"

// TestRemoteTarget wants several writes under way to a target on another machine, and no long unit that
// keeps one worker at work, whatever number of processors there is.
func TestRemoteTarget(t *testing.T) {
	c := &converter{remote: true}
	if n := c.workers(); n != 8 {
		t.Errorf("%d workers", n)
	}
	if c.offload() {
		t.Error("the system is to copy to another machine")
	}
	if c.job.Reflink = ReflinkAlways; !c.offload() {
		t.Error("copying by the system was asked for, and is not tried")
	}
}
