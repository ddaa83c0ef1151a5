package ops

import (
	"context"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/qapi"
)

// Map reports where the bytes of a disk are: it calls entry for the ranges from
// start on, at most max bytes (negative: to the end), in order and merged where
// they are contiguous. A range that starts at or beyond the end of the disk
// gives one entry of length zero. An error of entry ends the map.
func Map(ctx context.Context, img *block.Image, start, max int64, entry func(qapi.MapEntry) error) error {
	end := img.Size()
	if max >= 0 && max < end-start {
		end = start + max
	}
	cur := qapi.MapEntry{Start: start}
	for off := start; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		st, err := img.Status(ctx, off, end-off, nil)
		if err != nil {
			return err
		}
		if st.Length == 0 {
			break
		}
		next := mapEntry(off, st)
		off += st.Length
		if continues(cur, next) {
			cur.Length += next.Length
			continue
		}
		if cur.Length > 0 {
			if err := entry(cur); err != nil {
				return err
			}
		}
		cur = next
	}
	return entry(cur)
}

func mapEntry(off int64, st block.Status) qapi.MapEntry {
	e := qapi.MapEntry{Start: off, Length: st.Length, Depth: int64(st.Depth), Present: st.Allocated,
		Zero: st.Zero, Data: st.Data && !st.Hole, Compressed: st.Compressed}
	if st.HasOffset && !st.Hole {
		host := st.Offset
		e.Offset = &host
		if st.File != nil {
			e.Filename = st.File.Filename()
		}
	}
	return e
}

func continues(a, b qapi.MapEntry) bool {
	if a.Data != b.Data || a.Zero != b.Zero || a.Compressed != b.Compressed || a.Present != b.Present ||
		a.Depth != b.Depth || a.Filename != b.Filename || (a.Offset == nil) != (b.Offset == nil) {
		return false
	}
	return a.Offset == nil || *a.Offset+a.Length == *b.Offset
}
