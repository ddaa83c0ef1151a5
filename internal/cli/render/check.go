package render

import (
	"io"

	"github.com/cowl-disk/cowl/qapi"
)

func value(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}

// Check prints the result of a check.
func Check(w io.Writer, c *qapi.ImageCheck) error {
	p := &printer{w: w}
	corruptions, leaks := value(c.Corruptions), value(c.Leaks)
	if corruptions == 0 && leaks == 0 && c.CheckErrors == 0 {
		p.line("No errors were found on the image.")
	}
	if corruptions > 0 {
		p.line("\n%d errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.", corruptions)
	}
	if leaks > 0 {
		p.line("\n%d leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.", leaks)
	}
	if c.CheckErrors > 0 {
		p.line("\n%d internal errors have occurred during the check.", c.CheckErrors)
	}
	total, allocated := value(c.TotalClusters), value(c.AllocatedClusters)
	if total > 0 && allocated > 0 {
		p.line("%d/%d = %.2f%% allocated, %.2f%% fragmented, %.2f%% compressed clusters", allocated, total,
			percent(allocated, total), percent(value(c.FragmentedClusters), allocated), percent(value(c.CompressedClusters), allocated))
	}
	if end := value(c.ImageEndOffset); end > 0 {
		p.line("Image end offset: %d", end)
	}
	return p.err
}

func percent(part, whole int64) float64 { return float64(part) * 100 / float64(whole) }

// Repaired prints what a repair changed.
func Repaired(w io.Writer, leaks, corruptions int64) error {
	p := &printer{w: w}
	p.line("The following inconsistencies were found and repaired:\n\n    %d leaked clusters\n    %d corruptions\n\nDouble checking the fixed image now...",
		leaks, corruptions)
	return p.err
}

// Measure prints the result of "measure".
func Measure(w io.Writer, m *qapi.BlockMeasureInfo) error {
	p := &printer{w: w}
	p.line("required size: %d", m.Required)
	p.line("fully allocated size: %d", m.FullyAllocated)
	if m.Bitmaps != nil {
		p.line("bitmaps size: %d", *m.Bitmaps)
	}
	return p.err
}
