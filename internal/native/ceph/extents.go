//go:build linux && (amd64 || arm64)

package ceph

// stopped is what the callback returns to end an iteration: no error of the library.
const stopped = -9001

// iteration is a walk over the objects of a range that hold data.
type iteration struct {
	at, end int64 // what was told of reaches to at
	yield   func(length int64, data bool) bool
	done    bool
}

// take takes an object, or a part of one, which holds data if exists.
func (it *iteration) take(off, n int64, exists bool) int32 {
	if !exists || it.done {
		return 0
	}
	from, to := max(off, it.at), min(off+n, it.end)
	if from >= to {
		return 0
	}
	if !it.tell(from-it.at, false) || !it.tell(to-from, true) {
		return stopped
	}
	return 0
}

// tell tells of the next n bytes.
func (it *iteration) tell(n int64, data bool) bool {
	if n > 0 {
		it.at += n
		it.done = !it.yield(n, data)
	}
	return !it.done
}

// Extents implements serve.Disk: whole objects are data or holes. Where the library does
// not know, everything is data.
func (d *disk) Extents(off, n int64, yield func(length int64, data bool) bool) error {
	it := &iteration{at: off, end: off + n, yield: yield}
	var flags uint64
	if !d.holes || d.lib.getFlags(d.image, &flags) < 0 || flags&fastDiffInvalid != 0 {
		it.tell(n, true)
		return nil
	}
	d.lib.mu.Lock()
	d.lib.next++
	id := d.lib.next
	d.lib.iterations[id] = it
	d.lib.mu.Unlock()
	// Older versions tell wrong offsets if the first one is not that of an object.
	start := off - off%d.object
	r := d.lib.diffIterate(d.image, nil, uint64(start), uint64(off+n-start), 1, 1, d.lib.callback, id)
	d.lib.mu.Lock()
	delete(d.lib.iterations, id)
	d.lib.mu.Unlock()
	switch {
	case it.done:
	case r < 0:
		it.tell(it.end-it.at, true)
	default:
		it.tell(it.end-it.at, false)
	}
	return nil
}
