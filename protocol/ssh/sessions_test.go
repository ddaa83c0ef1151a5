package ssh

import "testing"

// TestWantMore wants connections that are being made to count, so that they are made side by side, but no more
// of them than there is work for, or may be.
func TestWantMore(t *testing.T) {
	for _, c := range []struct {
		busy          int64
		dialing, most int
		want          bool
	}{
		{8, 0, 4, true}, {8, 2, 4, true}, {8, 3, 4, false}, {8, 3, 8, true}, {8, 4, 8, false},
		{1, 0, 4, false}, {2, 0, 4, true}, {3, 1, 4, false},
	} {
		s := &session{}
		s.busy.Store(c.busy)
		n := &node{most: c.most, dialing: c.dialing, sessions: []*session{s}}
		if got := n.wantMore(); got != c.want {
			t.Errorf("%d requests, %d of at most %d connections on their way: %v", c.busy, c.dialing, c.most, got)
		}
	}
}
