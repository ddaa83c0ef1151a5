package ops

import "testing"

// TestMeterTellsTheEnd: the end is told although the part that was counted last was not.
func TestMeterTellsTheEnd(t *testing.T) {
	var told []int64
	m := newMeter(func(p Progress) { told = append(told, p.Done) }, "copy", 10)
	m.add(4, true)
	m.add(6, false)
	m.finish()
	m.finish()
	if len(told) != 3 || told[2] != 10 {
		t.Errorf("told %v", told)
	}
}
