package ops

import "github.com/cowl-disk/cowl/block"

// lastData is the last range of data that a plan was told of. A plan cuts it into chunks; asked for each of them, a format
// would walk over the entries of all that is left of the range. What becomes zeroes meanwhile is found when it is read.
// The zero value knows nothing.
type lastData struct {
	off int64
	st  block.Status
}

// at returns the status from off on, if off is in the range.
func (l *lastData) at(off int64) (block.Status, bool) {
	in := off - l.off
	if in < 0 || in >= l.st.Length {
		return block.Status{}, false
	}
	st := l.st
	st.Length -= in
	st.Offset += in
	return st, true
}

// note takes the status at off, if it is that of data.
func (l *lastData) note(off int64, st block.Status) {
	if st.Data && !st.Zero {
		l.off, l.st = off, st
	}
}
