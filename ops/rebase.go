package ops

import (
	"bytes"
	"context"
	"io"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/zero"
)

// RebaseJob says how to change the backing file of an image.
type RebaseJob struct {
	// Image is open for writing, with its backing chain unless Unsafe is set.
	Image *block.Image
	// Backing is what will be recorded, "" in Filename for no backing file.
	Backing driver.BackingRef
	// New is what Backing names, open for reading: nil if there will be none. It
	// may be a layer of the image's own chain. Not used with Unsafe.
	New *block.Image
	// Unsafe changes what is recorded and nothing else.
	Unsafe bool
	// Compress writes compressed clusters.
	Compress bool
	Workers  int // 0 means a default
	Progress ProgressFunc
}

// BackingChangeError says that the copying, if any, is done, and that the backing
// file could not be recorded.
type BackingChangeError struct {
	Backing driver.BackingRef
	Err     error
}

func (e *BackingChangeError) Error() string { return driver.Text(e) }
func (e *BackingChangeError) Unwrap() error { return e.Err }

// Template implements driver.Message.
func (e *BackingChangeError) Template() (string, []any) {
	return "could not change the backing file to '%s': %v", []any{e.Backing.Filename, e.Err}
}

// Rebase gives an image another backing file. Unless that is unsafe, it copies
// first what the image would read otherwise from the new one, durably. The
// contents are the same at any time: each write keeps what a guest would see
// through the old backing file, and the name in the header is changed last.
func Rebase(ctx context.Context, job RebaseJob) error {
	if !job.Unsafe {
		if err := rebaseContents(ctx, job); err != nil {
			return err
		}
		if err := job.Image.Flush(ctx); err != nil {
			return err
		}
	}
	if err := job.Image.ChangeBacking(ctx, job.Backing); err != nil {
		return &BackingChangeError{Backing: job.Backing, Err: err}
	}
	return nil
}

// rebaser copies what differs.
type rebaser struct {
	job RebaseJob
	old *block.Image // nil: there is no backing file
	// shared: New is a layer below old.
	shared      bool
	unit, chunk int64
	meter       *meter

	early     writeback
	oneWriter bool // the host lets one write at a time in: see decision 4
	writing   sync.Mutex

	own, was, will answer // of the plan
	order          turns  // parts are written in, so that the file is not in pieces
}

func rebaseContents(ctx context.Context, job RebaseJob) error {
	r := &rebaser{job: job, old: job.Image.Backing(), chunk: chunkSize, early: writeback{img: job.Image}, oneWriter: oneWriter(ctx, job.Image)}
	if job.Compress && !job.Image.CanCompress() {
		return driver.Errorf(driver.ErrUnsupported, "compression not supported for this file format")
	}
	for l := r.old; l != nil; l = l.Backing() {
		if l == job.New {
			r.shared = true
		}
	}
	lim := job.Image.Limits()
	r.unit = max(lim.ZeroAlignment, 1)
	if job.Compress || r.unit == 1 {
		r.unit = max(lim.ClusterSize, 512)
	}
	r.chunk = max(r.unit, chunkSize/r.unit*r.unit)
	size := job.Image.Size()
	r.meter = newMeter(job.Progress, "rebase", size)
	plan := func(ctx context.Context, out func(part) error) error { return r.plan(ctx, size, out) }
	var done atomic.Int64
	do := func(ctx context.Context, p part) error {
		err := r.do(ctx, p)
		if err == nil {
			r.meter.pass(done.Add(p.skipped + p.n))
		}
		return err
	}
	err := runParts(ctx, job.Workers, plan, do, r.early.wait)
	if err == nil {
		r.meter.pass(size)
		r.meter.finish()
	}
	return err
}

// plan hands out the ranges that the image leaves to its backing file and that
// may read otherwise from the new one. Each part starts at a multiple of the
// unit, and no two parts share one. Ranges that stay as they are go with the next
// part: there may be very many short ones, too many to wake a worker for each. What
// comes before a place of which the map cannot be read is handed out, too.
func (r *rebaser) plan(ctx context.Context, size int64, out func(part) error) error {
	var skipped int64
	seq := uint64(0)
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, failed := r.next(ctx, off, size)
		if failed != nil && p.n == 0 {
			return failed
		}
		if end := off + p.n; p.kind == kindSkip && end < size && skipped+p.n < maxPart {
			skipped, off = skipped+p.n, end
			continue
		}
		p.skipped, skipped = skipped, 0
		p.seq = seq
		seq++
		if err := out(p); err != nil {
			return err
		}
		if failed != nil {
			return failed
		}
		off += p.n
	}
	return nil
}

// next describes what begins at off, a multiple of the unit. With an error the part is
// what comes before the place of which the map cannot be read, as far as it is whole.
func (r *rebaser) next(ctx context.Context, off, size int64) (part, error) {
	k, n, err := r.look(ctx, off, min(size-off, maxPart))
	if err != nil {
		return part{}, err
	}
	if end := off + n; k == kindSkip && (end == size || end/r.unit*r.unit > off) {
		if end != size {
			end = end / r.unit * r.unit
		}
		return part{off: off, n: end - off, kind: kindSkip}, nil
	}
	// Some of it has to be compared: as much as is in a chunk, up to a longer
	// range that has not.
	limit := min((off/r.chunk+1)*r.chunk, size)
	end := off
	for end < limit {
		k, n, err := r.look(ctx, end, size-end)
		if err != nil {
			return part{off: off, n: end/r.unit*r.unit - off, kind: kindData}, err
		}
		stop := end + n
		if at := (end + r.unit - 1) / r.unit * r.unit; k == kindSkip && at > off && (stop-at >= r.unit || stop == size) {
			end = at
			break
		}
		end = stop
	}
	end = min((end+r.unit-1)/r.unit*r.unit, limit)
	return part{off: off, n: end - off, kind: kindData}, nil
}

// answer is what a layer or a chain said of the disk from off to end. One run of
// the plan asks for ever higher offsets: what was said of a long range need not
// be asked again for each of its parts.
type answer struct {
	off, end int64
	side     side
}

// ask returns what is known of off, from the last answer or a new one.
func (a *answer) ask(off, n int64, find func(off, n int64) (side, int64, error)) (side, int64, error) {
	if off < a.off || off >= a.end {
		s, got, err := find(off, n)
		if err != nil {
			return 0, 0, err
		}
		*a = answer{off, off + got, s}
	}
	return a.side, min(n, a.end-off), nil
}

// look says whether a range that begins at off may read otherwise through the
// new backing file, and how long it is.
func (r *rebaser) look(ctx context.Context, off, n int64) (kind, int64, error) {
	own, n, err := r.own.ask(off, n, func(off, n int64) (side, int64, error) {
		has, n, err := r.job.Image.AllocatedLayer(ctx, off, n)
		if has {
			return sideData, n, err
		}
		return sideSame, n, err
	})
	if err != nil || own == sideData {
		return kindSkip, n, err
	}
	was, n, err := r.was.ask(off, n, func(off, n int64) (side, int64, error) { return r.side(ctx, r.old, off, n, r.shared) })
	if err != nil || was == sideSame {
		return kindSkip, n, err
	}
	will, n, err := r.will.ask(off, n, func(off, n int64) (side, int64, error) { return r.side(ctx, r.job.New, off, n, false) })
	if err != nil || was == sideZero && will == sideZero {
		return kindSkip, n, err
	}
	return kindData, n, nil
}

type side uint8

const (
	sideData side = iota
	sideZero
	sideSame // left to the new backing file
)

// side says what one of the backing files holds at off.
func (r *rebaser) side(ctx context.Context, img *block.Image, off, n int64, shared bool) (side, int64, error) {
	if shared && img == r.job.New {
		return sideSame, n, nil
	}
	if img == nil || off >= img.Size() {
		return sideZero, n, nil
	}
	var stop *block.Image
	if shared {
		stop = r.job.New
	}
	st, err := img.Status(ctx, off, min(n, img.Size()-off), stop)
	switch {
	case err != nil:
		return 0, 0, err
	case st.Zero:
		return sideZero, st.Length, nil
	case st.Data:
		return sideData, st.Length, nil
	}
	return sideSame, st.Length, nil
}

// do compares a part and copies what differs.
func (r *rebaser) do(ctx context.Context, p part) error {
	var once sync.Once
	pass := func() { once.Do(func() { r.order.done(p.seq) }) }
	defer pass()
	if p.kind == kindSkip {
		return nil
	}
	was := bufpool.Get(int(p.n))
	defer bufpool.Put(was)
	if err := readBackingPart(ctx, r.old, was, p.off); err != nil {
		return err
	}
	var will []byte // nil: zeroes
	if r.job.New != nil && p.off < r.job.New.Size() {
		will = bufpool.Get(int(p.n))
		defer bufpool.Put(will)
		if err := readBackingPart(ctx, r.job.New, will, p.off); err != nil {
			return err
		}
		if bytes.Equal(was, will) {
			return nil
		}
	}
	list := r.different(was, will)
	if len(list) == 0 {
		return nil
	}
	if r.job.Compress {
		room := bufpool.Get(3 * int(r.unit))
		defer bufpool.Put(room)
		for i := range list {
			if err := r.encode(&list[i], was, room); err != nil {
				return err
			}
		}
	}
	if err := r.order.wait(ctx, p.seq); err != nil {
		return err
	}
	for i, d := range list {
		then := func() {}
		if i == len(list)-1 {
			then = pass
		}
		if err := r.copy(ctx, p.off+d.from, was[d.from:d.to], d, then); err != nil {
			return err
		}
		r.early.wrote(d.to - d.from)
	}
	return nil
}

// difference is a range of a part that reads otherwise from the new backing file.
type difference struct {
	from, to int64
	zero     bool
	enc      []byte // compressed; nil: it is to be written as it is
}

// different finds whole units of was that differ from will; nil stands for zeroes.
// Units of one kind go together, unless they are to be compressed.
func (r *rebaser) different(was, will []byte) (list []difference) {
	n := int64(len(was))
	for i := int64(0); i < n; {
		end := min(i+r.unit, n)
		isZero := zero.IsZero(was[i:end])
		same := isZero
		if will != nil {
			same = bytes.Equal(was[i:end], will[i:end])
		}
		if k := len(list) - 1; !same && k >= 0 && !r.job.Compress && list[k].to == i && list[k].zero == isZero {
			list[k].to = end
		} else if !same {
			list = append(list, difference{from: i, to: end, zero: isZero})
		}
		i = end
	}
	return list
}

// encode compresses a unit. room has that of three.
func (r *rebaser) encode(d *difference, was, room []byte) error {
	if d.zero {
		return nil
	}
	in := room[:r.unit]
	clear(in[copy(in, was[d.from:d.to]):])
	enc, ok, err := r.job.Image.Encode(room[r.unit:r.unit:3*r.unit], in)
	if err == nil && ok {
		d.enc = bytes.Clone(enc)
	}
	return err
}

// readBackingPart reads what an overlay would see of a backing image.
func readBackingPart(ctx context.Context, img *block.Image, p []byte, off int64) error {
	n := 0
	if img != nil && off < img.Size() {
		var err error
		if n, err = img.ReadAt(ctx, p, off); err != nil && err != io.EOF {
			return err
		}
	}
	clear(p[n:])
	return nil
}

// copy writes what the old backing file holds to the image, except where the
// image has contents of its own. It calls then as soon as all room for it is taken.
func (r *rebaser) copy(ctx context.Context, off int64, data []byte, d difference, then func()) error {
	img := r.job.Image
	for len(data) > 0 {
		has, n, err := img.AllocatedLayer(ctx, off, int64(len(data)))
		if err != nil {
			return err
		}
		if n == 0 {
			return driver.Errorf(driver.ErrRange, "the image shrank")
		}
		p := data[:n]
		switch {
		case has:
		case d.zero:
			err = r.zero(ctx, off, p)
		case d.enc != nil && n == d.to-d.from:
			err = img.WriteEncoded(ctx, off, d.enc)
		case n == int64(len(data)):
			err = r.write(ctx, off, p, then)
		default:
			err = r.write(ctx, off, p, func() {})
		}
		if err != nil {
			return err
		}
		data, off = data[n:], off+n
	}
	return nil
}

// write writes what the image does not have. A file that the host caches takes one
// write at a time: a second worker would only burn its processor waiting for the
// host's lock.
func (r *rebaser) write(ctx context.Context, off int64, p []byte, then func()) error {
	if r.oneWriter {
		r.writing.Lock()
		defer r.writing.Unlock()
	}
	_, err := r.job.Image.Transfer().WriteAtOrdered(ctx, p, off, then)
	return err
}

// zero makes a range of the image's own zeroes. A format that has no zero clusters
// and no backing file yet may just have left the range unallocated, which a
// backing file would show through: then p, all zero, is written.
func (r *rebaser) zero(ctx context.Context, off int64, p []byte) error {
	img := r.job.Image
	if err := img.WriteZeroes(ctx, off, int64(len(p)), 0); err != nil || r.old != nil {
		return err
	}
	for len(p) > 0 {
		has, n, err := img.AllocatedLayer(ctx, off, int64(len(p)))
		if err == nil && !has {
			_, err = img.WriteAt(ctx, p[:n], off)
		}
		if err != nil {
			return err
		}
		off, p = off+n, p[n:]
	}
	return nil
}
