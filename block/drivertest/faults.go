package drivertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// faultRuns is how many different failures each test tries.
const faultRuns = 160

// faultSteps is the length of the workload that fails.
const faultSteps = 40

// faults makes changes of a disk fail. It counts them from the moment it is set.
type faults struct {
	count       atomic.Int64
	first, last int64 // the changes that fail; none if first is 0
	// cancel, if set, has the request cancelled during these changes, in place of
	// failing them.
	cancel bool
	stop   context.CancelFunc // of the request under way
}

func (f *faults) hook(op mem.Op, _, _ int64) error {
	if op == mem.OpRead {
		return nil
	}
	if n := f.count.Add(1); f.first > 0 && n >= f.first && n <= f.last {
		if f.cancel {
			f.stop()
			return nil
		}
		return syscall.ENOSPC
	}
	return nil
}

// faultCase is a disk and the workload on it, with other failures in each run. What all
// runs have in common is made once.
type faultCase struct {
	s       *suite
	image   *mem.Disk // the new image
	content []byte    // written before the workload, at faultContent
	steps   []faultStep
	ledger  *ledger // of the disk with the content
}

// faultContent is where the disk's first content lies.
const faultContent = 4321

// faultName is the image that a run uses.
const faultName = "mem:fault"

type faultStep struct {
	kind   int
	off, n int64
	p      []byte // for a write
}

// newFaultCase makes an image and chooses a workload.
func (s *suite) newFaultCase(t *testing.T, seed uint64) *faultCase {
	t.Helper()
	name := s.create(t, nil)
	img := s.open(t, name, true)
	size, cluster := img.Size(), img.Limits().ClusterSize
	closeImage(t, img)
	initial := make([]byte, size)
	c := &faultCase{s: s, image: s.disk(name), content: initial[faultContent : faultContent+size/3]}
	testkit.Fill(testkit.Rand(seed+1000), c.content)
	c.ledger = newLedger(initial)
	r := testkit.Rand(seed)
	for range faultSteps {
		var step faultStep
		step.off, step.n = pick(r, size, cluster)
		if step.kind = r.IntN(10); step.kind > 4 {
			step.p = make([]byte, step.n)
			testkit.FillDisk(r, step.p)
		}
		c.steps = append(c.steps, step)
	}
	return c
}

// workload changes a disk in a fixed way and notes in l what becomes of it.
func (f *faults) workload(img *block.Image, l *ledger, steps []faultStep) {
	for _, step := range steps {
		ctx, cancel := context.WithCancel(context.Background())
		f.stop = cancel
		switch step.kind {
		case 0:
			l.zeroed(step.off, step.n, img.WriteZeroes(ctx, step.off, step.n, driver.ZeroMayUnmap))
		case 1:
			_ = img.Discard(ctx, step.off, step.n)
			l.discarded(step.off, step.n)
		case 2, 3:
			if img.Flush(ctx) == nil {
				l.flushed()
			}
		case 4:
			compressedFault(ctx, img, l, step.off)
		default:
			_, err := img.WriteAt(ctx, step.p, step.off)
			l.changed(step.p, step.off, err)
		}
		cancel()
	}
	f.stop = func() {}
}

// compressedFault stores a compressed cluster, if there is room for one.
func compressedFault(ctx context.Context, img *block.Image, l *ledger, off int64) {
	cluster := img.Limits().ClusterSize
	if !img.CanCompress() || cluster == 0 {
		return
	}
	off = off / cluster * cluster
	in := min(cluster, int64(len(l.want))-off)
	st, err := img.StatusLayer(ctx, off, in)
	if err != nil || st.Data || st.Zero || st.Allocated || st.Length < in {
		return
	}
	p := make([]byte, cluster)
	for i := range p[:in] {
		p[i] = byte(i >> 6)
	}
	enc, ok, err := img.Encode(nil, p)
	if err != nil || !ok {
		return
	}
	l.changed(p[:in], off, img.WriteEncoded(ctx, off, enc))
}

// run makes a copy of the image, with some content that is durable, runs the workload
// with the given failures, and returns the image still open. total is how many
// changes of the file there were.
func (c *faultCase) run(t *testing.T, f *faults) (img *block.Image, total int64) {
	t.Helper()
	disk := c.image.Clone()
	c.s.mem.Add(strings.TrimPrefix(faultName, "mem:"), disk)
	img = c.s.open(t, faultName, true)
	if _, err := img.WriteAt(context.Background(), c.content, faultContent); err != nil {
		t.Fatal(err)
	}
	if err := img.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	c.ledger.reset()
	disk.SetHook(f.hook)
	f.workload(img, c.ledger, c.steps)
	return img, f.count.Load()
}

// eachFault calls run with different changes of the file to fail, spread over
// the workload.
func (s *suite) eachFault(t *testing.T, run func(t *testing.T, c *faultCase, n int64)) {
	if !s.isFormat() {
		t.Skip("faults are injected below formats")
	}
	runs := int64(faultRuns)
	if s.light() {
		runs = 30
	}
	if testkit.Race {
		runs = 4 // all faults are tried without the detector, which needs few to find a race
	}
	for seed := range uint64(2) {
		c := s.newFaultCase(t, seed)
		img, total := c.run(t, &faults{})
		if err := c.ledger.read(img, false); err != nil {
			t.Fatalf("without any fault: %v", err)
		}
		closeImage(t, img)
		for n := int64(1); n <= total; n += max(1, total*2/runs) {
			t.Run(fmt.Sprintf("seed%d,change%dof%d", seed, n, total), func(t *testing.T) { run(t, c, n) })
		}
	}
}

// testFailOnce has one change of the file fail, as when a disk was full for a
// moment. The request may fail; afterwards all that succeeded reads back, at
// once and after reopening, and the image has leaks at most.
func testFailOnce(t *testing.T, s *suite) {
	s.eachFault(t, func(t *testing.T, c *faultCase, n int64) {
		l := c.ledger
		img, _ := c.run(t, &faults{first: n, last: n})
		if err := l.read(img, false); errors.Is(err, errWrongContent) {
			t.Fatalf("after the fault: %v", err)
		}
		closed := img.Flush(context.Background())
		if closed == nil {
			l.flushed()
		}
		if err := img.Close(context.Background()); err == nil && closed != nil {
			t.Log("closing succeeded after a flush had failed")
		}
		s.disk(faultName).SetHook(nil)
		s.checkDurable(t, faultName, l)
	})
}

// testFailForGood has every change fail from some moment on, as when the disk or
// the machine dies. What was flushed before must be there.
func testFailForGood(t *testing.T, s *suite) {
	testkit.NoRace(t, "the requests are those of FailOnce")
	s.eachFault(t, func(t *testing.T, c *faultCase, n int64) {
		l := c.ledger
		img, _ := c.run(t, &faults{first: n, last: 1 << 62})
		if err := l.read(img, false); errors.Is(err, errWrongContent) {
			t.Fatalf("after the fault: %v", err)
		}
		_ = img.Close(context.Background())
		s.disk(faultName).SetHook(nil)
		s.checkDurable(t, faultName, l)
	})
}

// testCancelDuring cancels a request while it changes the file. That is no error
// of the image: it goes on, and nothing is lost but what the request was about.
func testCancelDuring(t *testing.T, s *suite) {
	s.eachFault(t, func(t *testing.T, c *faultCase, n int64) {
		l := c.ledger
		img, _ := c.run(t, &faults{first: n, last: n, cancel: true})
		if err := l.read(img, false); err != nil {
			t.Fatalf("after the cancellation: %v", err)
		}
		if err := img.Flush(context.Background()); err != nil {
			t.Fatalf("flush after the cancellation: %v", err)
		}
		l.flushed()
		closeImage(t, img)
		s.disk(faultName).SetHook(nil)
		s.checkDurable(t, faultName, l)
	})
}

// checkDurable opens an image anew: it has leaks at most and holds what was
// flushed, and can be written again.
func (s *suite) checkDurable(t *testing.T, name string, l *ledger) {
	t.Helper()
	if !s.InUse && !s.dirty(t, name) {
		s.check(t, name, true)
	}
	img := s.open(t, name, true)
	if err := l.read(img, true); err != nil {
		t.Fatalf("after reopening: %v", err)
	}
	p := []byte("life goes on")
	_, err := img.WriteAt(context.Background(), p, 777)
	if err != nil {
		t.Fatalf("write after reopening: %v", err)
	}
	closeImage(t, img)
	s.check(t, name, true)
	img = s.open(t, name, false)
	defer closeImage(t, img)
	got := make([]byte, len(p))
	if _, err := img.ReadAt(context.Background(), got, 777); err != nil || string(got) != string(p) {
		t.Fatalf("%q, %v", got, err)
	}
}

// dirty tells whether an image says of itself that it has to be repaired, which
// opening it for writing does.
func (s *suite) dirty(t testing.TB, name string) bool {
	t.Helper()
	ctx := context.Background()
	img, err := s.tryOpen(ctx, name, block.OpenOptions{Use: block.Use{Check: true}})
	if err != nil {
		t.Fatalf("open for check: %v", err)
	}
	defer closeImage(t, img)
	i, err := img.State(ctx)
	if err != nil {
		t.Fatalf("state: %v", err)
	}
	return i != nil && i.Dirty
}
