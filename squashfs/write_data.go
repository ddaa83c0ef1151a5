package squashfs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/internal/zero"
)

// Contents go through three stages. feed cuts the files, in their order, into jobs of
// about one block: a block of a large file, or several small files. Workers read and
// compress. The goroutine that called Write takes the jobs in the order in which they
// were fed, puts blocks into the image and small files into fragments, which are jobs
// again. A fragment is written a fixed number of fragments after it was filled: what the
// image looks like does not depend on which worker was first.

// fragmentsAhead is that number. It bounds how many workers compress fragments at once.
const fragmentsAhead = 16

// job is a piece of work. Its fields belong to a worker until done is closed.
type job struct {
	done chan struct{}
	err  error

	// One of: a block of a large file, a run of holes, small files, a fragment, a whole
	// file to be hashed.
	file  *inode
	open  *openFile
	off   int64
	n     int64
	tail  bool // the end of a large file, for a fragment
	holes int64
	small []*smallFile
	frag  bool
	whole bool

	raw    []byte // the bytes read, or the fragment
	packed []byte // what is written: compressed, or raw
	word   uint32 // its size as the format has it, 0 for a hole
	sum    digest
}

type digest [sha256.Size]byte

// smallFile is a file of less than a block.
type smallFile struct {
	file  *inode
	share bool // there are others of its size
	raw   []byte
	sum   digest
	// without fragments:
	packed []byte
	word   uint32
}

// openFile is a large file that several jobs read.
type openFile struct {
	fstree.Reader
	users atomic.Int32
}

func (f *openFile) release() error {
	if f.users.Add(-1) == 0 {
		return f.Close()
	}
	return nil
}

// content is what files with equal bytes share.
type content struct {
	size int64
	sum  digest
}

// pipeline is the state that stages share.
type pipeline struct {
	*writer
	ctx    context.Context
	cancel context.CancelFunc
	work   chan *job
	order  chan *job
	bufs   sync.Pool
	sizes  map[int64]int // how many files have a size

	// Files that others may share: large ones are those of feed, small ones of collect.
	large, small         map[content]*fileData
	largeSame, smallSame int

	fragment []byte // being filled
	pending  []*job // fragments in work, by number
	filled   uint32 // fragments so far
	done     int64
}

// data writes the contents of all files and the records of the fragments.
func (w *writer) data(ctx context.Context) error {
	p := &pipeline{writer: w, work: make(chan *job), order: make(chan *job, 2*w.options.Workers+2), sizes: map[int64]int{},
		large: map[content]*fileData{}, small: map[content]*fileData{}}
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.bufs.New = func() any { b := make([]byte, 0, w.bs); return &b }
	for _, f := range w.files {
		p.sizes[f.Size]++
	}
	packers := make([]packer, w.options.Workers)
	for i := range packers {
		var err error
		if packers[i], err = newPacker(w.options.Compression, w.options.Level, w.options.BlockSize); err != nil {
			p.cancel()
			return err
		}
	}
	var workers sync.WaitGroup
	for _, k := range packers {
		workers.Go(func() {
			for j := range p.work {
				j.err = p.run(j, k)
				close(j.done)
			}
		})
	}
	fed := make(chan error, 1)
	go func() { fed <- p.feed(); close(p.order) }()
	err := p.collect()
	p.cancel()
	for j := range p.order { // what is still under way gives its file back
		<-j.done
		if j.open != nil {
			j.open.release()
		}
	}
	feedErr := <-fed
	for _, j := range p.pending {
		<-j.done
	}
	close(p.work)
	workers.Wait()
	w.report.Duplicates = p.largeSame + p.smallSame
	if err == nil {
		err = feedErr
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (p *pipeline) buffer() []byte { return (*p.bufs.Get().(*[]byte))[:0] }
func (p *pipeline) recycle(b []byte) {
	if int64(cap(b)) >= p.bs {
		p.bufs.Put(&b)
	}
}

// send gives a job to the workers.
func (p *pipeline) send(j *job) error {
	j.done = make(chan struct{})
	select {
	case p.work <- j:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// submit gives a job to the workers and to collect.
func (p *pipeline) submit(j *job) error {
	if err := p.send(j); err != nil {
		return err
	}
	select {
	case p.order <- j:
		return nil
	case <-p.ctx.Done():
		<-j.done
		if j.open != nil {
			j.open.release()
		}
		return p.ctx.Err()
	}
}

func (p *pipeline) feed() error {
	batch := &job{}
	size := int64(0)
	flush := func() error {
		if len(batch.small) == 0 {
			return nil
		}
		j := batch
		batch, size = &job{}, 0
		return p.submit(j)
	}
	for _, f := range p.files {
		if f.Size < p.bs {
			if size+f.Size > p.bs {
				if err := flush(); err != nil {
					return err
				}
			}
			batch.small = append(batch.small, &smallFile{file: f, share: p.sizes[f.Size] > 1})
			if size += f.Size; len(batch.small) == 128 {
				if err := flush(); err != nil {
					return err
				}
			}
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		if err := p.feedLarge(f); err != nil {
			return fmt.Errorf("%q: %w", f.path, err)
		}
	}
	return flush()
}

// feedLarge feeds the blocks of a file, unless another file holds the same.
func (p *pipeline) feedLarge(f *inode) error {
	r, err := f.OpenContent()
	if err != nil {
		return err
	}
	open := &openFile{Reader: r}
	open.users.Store(1)
	defer open.release()
	if p.sizes[f.Size] > 1 {
		j := &job{file: f, open: open, n: f.Size, whole: true}
		if err := p.send(j); err != nil {
			return err
		}
		if <-j.done; j.err != nil {
			return j.err
		}
		key := content{f.Size, j.sum}
		if other := p.large[key]; other != nil {
			f.data = other
			p.largeSame++
			return nil
		}
		p.large[key] = f.data
	}
	for off := int64(0); off < f.Size; {
		start, _, err := fstree.DataAfter(r, off, f.Size)
		if err != nil {
			return err
		}
		if holes := (start - off) / p.bs; holes > 0 || start >= f.Size {
			n := holes * p.bs
			if start >= f.Size {
				n, holes = f.Size-off, (f.Size-off+p.bs-1)/p.bs
			}
			done := make(chan struct{})
			close(done)
			j := &job{done: done, file: f, holes: holes, n: n}
			select {
			case p.order <- j:
			case <-p.ctx.Done():
				return p.ctx.Err()
			}
			off += n
			continue
		}
		n := min(p.bs, f.Size-off)
		open.users.Add(1)
		j := &job{file: f, open: open, off: off, n: n, tail: n < p.bs && p.options.TailEnds && !p.options.NoFragments}
		if err := p.submit(j); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// run is what a worker does.
func (p *pipeline) run(j *job, k packer) error {
	switch {
	case j.whole:
		return p.hash(j)
	case j.frag:
		return p.pack(k, j.raw, &j.packed, &j.word)
	case j.small != nil:
		for _, s := range j.small {
			if err := p.readSmall(s, j, k); err != nil {
				return fmt.Errorf("%q: %w", s.file.path, err)
			}
		}
		return nil
	}
	j.raw = p.buffer()[:j.n]
	if err := readFull(j.open, j.raw, j.off); err != nil {
		return fmt.Errorf("%q: %w", j.file.path, err)
	}
	if zero.IsZero(j.raw) {
		j.tail = false // a hole, as it would be if the source had one
		return nil
	}
	if j.tail {
		return nil
	}
	return p.pack(k, j.raw, &j.packed, &j.word)
}

// pack compresses a block, or takes it as it is.
func (p *pipeline) pack(k packer, raw []byte, packed *[]byte, word *uint32) error {
	out, ok, err := k.pack(p.buffer(), raw)
	if err != nil {
		return fmt.Errorf("compress %d bytes: %w", len(raw), err)
	}
	if ok {
		*packed, *word = out, uint32(len(out))
		return nil
	}
	*packed, *word = append(out, raw...), uint32(len(raw))|dataRaw
	return nil
}

func (p *pipeline) readSmall(s *smallFile, j *job, k packer) error {
	if j.raw == nil {
		j.raw = p.buffer()
	}
	r, err := s.file.OpenContent()
	if err != nil {
		return err
	}
	at := len(j.raw)
	j.raw = j.raw[:at+int(s.file.Size)]
	s.raw = j.raw[at:]
	err = readFull(r, s.raw, 0)
	if closeErr := r.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if s.share {
		s.sum = sha256.Sum256(s.raw)
	}
	if p.options.NoFragments && !zero.IsZero(s.raw) {
		return p.pack(k, s.raw, &s.packed, &s.word)
	}
	return nil
}

// hash sums a file up block by block. Blocks of zeros count by their number, whether the
// source has holes there or not: the image must not depend on that.
func (p *pipeline) hash(j *job) error {
	h := sha256.New()
	buf := p.buffer()[:p.bs]
	defer p.recycle(buf)
	zeros := uint64(0)
	for off := int64(0); off < j.n; {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		start, _, err := fstree.DataAfter(j.open, off, j.n)
		if err != nil {
			return err
		}
		if n := (start - off) / p.bs; n > 0 {
			zeros += uint64(n)
			off += n * p.bs
			continue
		}
		n := min(p.bs, j.n-off)
		if err := readFull(j.open, buf[:n], off); err != nil {
			return err
		}
		if off += n; zero.IsZero(buf[:n]) {
			zeros++
			continue
		}
		h.Write(binary.LittleEndian.AppendUint64(nil, zeros))
		h.Write(buf[:n])
		zeros = 0
	}
	h.Sum(j.sum[:0])
	return nil
}

// collect puts what the workers have done into the image.
func (p *pipeline) collect() error {
	for j := range p.order {
		select {
		case <-j.done:
		case <-p.ctx.Done():
			<-j.done
		}
		err := j.err
		if err == nil {
			err = p.place(j)
		}
		if j.open != nil {
			if closeErr := j.open.release(); err == nil {
				err = closeErr
			}
		}
		p.recycle(j.raw)
		p.recycle(j.packed)
		if err == nil {
			err = p.out.err
		}
		if err != nil {
			return err
		}
	}
	if err := p.endFragment(); err != nil {
		return err
	}
	return p.drain(0)
}

func (p *pipeline) place(j *job) error {
	switch {
	case j.small != nil:
		for _, s := range j.small {
			if err := p.placeSmall(s); err != nil {
				return err
			}
			p.progress(s.file.Size)
		}
		return nil
	case j.tail:
		p.progress(j.n)
		return p.toFragment(j.file.data, j.raw)
	case j.holes > 0:
		j.file.data.blocks = append(j.file.data.blocks, make([]uint32, j.holes)...)
		j.file.data.sparse += j.n
	default:
		p.block(j.file.data, j.packed, j.word, j.n)
	}
	p.progress(j.n)
	return nil
}

// block adds a block of n bytes to a file.
func (p *pipeline) block(d *fileData, packed []byte, word uint32, n int64) {
	if word == 0 {
		d.sparse += n
	} else if d.start == 0 {
		d.start = p.out.at
	}
	d.blocks = append(d.blocks, word)
	p.out.add(packed)
}

func (p *pipeline) placeSmall(s *smallFile) error {
	if s.share {
		key := content{s.file.Size, s.sum}
		if other := p.small[key]; other != nil {
			s.file.data = other
			p.smallSame++
			return nil
		}
		p.small[key] = s.file.data
	}
	if p.options.NoFragments {
		p.block(s.file.data, s.packed, s.word, s.file.Size)
		p.recycle(s.packed)
		return nil
	}
	return p.toFragment(s.file.data, s.raw)
}

// toFragment adds the end of a file to the fragment that is being filled.
func (p *pipeline) toFragment(d *fileData, raw []byte) error {
	if len(p.fragment)+len(raw) > int(p.bs) {
		if err := p.endFragment(); err != nil {
			return err
		}
	}
	if p.fragment == nil {
		p.fragment = p.buffer()
	}
	d.fragment, d.fragOffset = p.filled, uint32(len(p.fragment))
	p.fragment = append(p.fragment, raw...)
	return nil
}

func (p *pipeline) endFragment() error {
	if len(p.fragment) == 0 {
		return nil
	}
	j := &job{frag: true, raw: p.fragment}
	if err := p.send(j); err != nil {
		return err
	}
	p.pending = append(p.pending, j)
	p.fragment = nil
	p.filled++
	return p.drain(fragmentsAhead)
}

// drain writes the oldest fragments until no more than keep are in work.
func (p *pipeline) drain(keep int) error {
	for len(p.pending) > keep {
		j := p.pending[0]
		p.pending = p.pending[1:]
		if <-j.done; j.err != nil {
			return j.err
		}
		p.writer.fragments = binary.LittleEndian.AppendUint64(p.writer.fragments, p.out.at)
		p.writer.fragments = binary.LittleEndian.AppendUint32(p.writer.fragments, j.word)
		p.writer.fragments = append(p.writer.fragments, 0, 0, 0, 0)
		p.out.add(j.packed)
		p.recycle(j.raw)
		p.recycle(j.packed)
	}
	return p.out.err
}

func (p *pipeline) progress(n int64) {
	p.done += n
	if p.options.Progress != nil {
		p.options.Progress(p.done, p.total)
	}
}

// readFull reads len(p) bytes, or fails.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}
