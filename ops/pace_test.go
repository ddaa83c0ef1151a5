package ops

import (
	"testing"
	"time"
)

// clock is a time that the test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

// TestPaced: ten seconds of a report each millisecond become about 200, with the rate
// and the time left; begin and end of each phase are told.
func TestPaced(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	var got []Progress
	f := paced(func(p Progress) { got = append(got, p) }, c.now)
	const total = 10_000_000 // a megabyte a second
	for done := int64(0); done < total; done += 1000 {
		f(Progress{Phase: "copy", Done: done, Total: total})
		c.t = c.t.Add(time.Millisecond)
	}
	f(Progress{Phase: "copy", Done: total, Total: total})
	if len(got) < 150 || len(got) > 202 {
		t.Fatalf("%d reports", len(got))
	}
	if p := got[0]; p.Done != 0 || p.Rate != 0 || p.Remaining != 0 {
		t.Errorf("begin: %+v", p)
	}
	if p := got[len(got)-1]; p.Done != total || p.Remaining != 0 {
		t.Errorf("end: %+v", p)
	}
	for _, p := range got[1 : len(got)-1] {
		if p.Done < 500_000 {
			if p.Rate != 0 || p.Remaining != 0 {
				t.Errorf("told too early: %+v", p)
			}
			continue
		}
		left := time.Duration(total-p.Done) * time.Microsecond
		if p.Rate < 990_000 || p.Rate > 1_010_000 || p.Remaining < left*98/100 || p.Remaining > left*102/100 {
			t.Errorf("%+v, left %v", p, left)
		}
	}

	// Another phase begins at once, and knows nothing of the rate of the one before.
	got = nil
	f(Progress{Phase: "checksum", Done: 1, Total: 10})
	f(Progress{Phase: "checksum", Done: 2, Total: 10})
	f(Progress{Phase: "checksum", Done: 10, Total: 10})
	if len(got) != 2 || got[0].Done != 1 || got[0].Rate != 0 || got[1].Done != 10 {
		t.Errorf("%+v", got)
	}
}

// TestPacedFollows: the rate follows a change, and a standstill makes the time left grow.
func TestPacedFollows(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	var last Progress
	f := paced(func(p Progress) { last = p }, c.now)
	done := int64(0)
	run := func(rate int64, seconds int) Progress {
		for range seconds * 10 {
			f(Progress{Phase: "copy", Done: done, Total: 1 << 40})
			c.t = c.t.Add(100 * time.Millisecond)
			done += rate / 10
		}
		return last
	}
	fast := run(10_000_000, 10)
	slow := run(1_000_000, 20)
	still := run(0, 20)
	if fast.Rate < 9_900_000 || slow.Rate > 1_300_000 || slow.Rate < 900_000 || still.Rate > 100_000 || still.Remaining < 5*slow.Remaining {
		t.Errorf("%+v\n%+v\n%+v", fast, slow, still)
	}
	if paced(nil, c.now) != nil {
		t.Error("nil does not stay nil")
	}
}
