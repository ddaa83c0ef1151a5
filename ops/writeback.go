package ops

import (
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block"
)

// writebackStep is how many bytes are written before the system is asked to begin
// to write them to the device.
const writebackStep = 16 << 20

// writeback starts writing to the device while a job that flushes at the end still copies.
type writeback struct {
	img  *block.Image
	held atomic.Int64
	busy atomic.Bool
	wg   sync.WaitGroup
}

// wrote counts n bytes that were written.
func (w *writeback) wrote(n int64) {
	if w.held.Add(n) < writebackStep || !w.busy.CompareAndSwap(false, true) {
		return
	}
	w.held.Store(0)
	w.wg.Go(func() {
		w.img.Transfer().StartWriteback()
		w.busy.Store(false)
	})
}

// wait returns when the image is not used any more. wrote must not be called meanwhile.
func (w *writeback) wait() { w.wg.Wait() }
