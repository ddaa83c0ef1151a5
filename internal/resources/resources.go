// Package resources tells how much of the machine one operation may take: how
// many processors its work is divided among, and how much memory its workers,
// buffers and caches may hold together. Limits of the process (RLIMIT_AS, as
// "prlimit --as" and "ulimit -v" set it), of its control group and of the Go
// runtime (GOMEMLIMIT) count.
//
// A Go program cannot recover from a failed allocation: the runtime ends it with
// a dump of all goroutines. So code that needs much memory asks first, with Workers
// for a number of workers and with Claim for one large allocation.
//
// All functions may be called concurrently. All sizes are in bytes.
package resources

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
)

const (
	// MaxBuffers is how much memory the workers of one operation hold at most,
	// however many processors there are.
	MaxBuffers = 64 << 20
	// minBuffers is what an operation gets even where nothing seems left:
	// less would not let it work at all.
	minBuffers = 4 << 20
	// perProcessor is the memory that the runtime's caches take for each
	// processor when all of them allocate. A process with a limit does not use
	// more processors than that leaves room for.
	perProcessor = 16 << 20
	// arena is the unit in which the runtime takes address space. A large
	// allocation can need one more than its own size.
	arena = 64 << 20
)

// ErrNoMemory is the error of Claim.
var ErrNoMemory = errors.New("not enough memory")

// Processors returns how many processors the work of one operation is divided
// among, at least 1.
func Processors() int { return runtime.GOMAXPROCS(0) }

// Available returns how many bytes the process can allocate before it meets a
// limit, math.MaxInt64 if it has none. It is at least 0. Memory that the runtime
// has and does not use is not counted.
func Available() int64 {
	left := int64(math.MaxInt64)
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		left = limit - int64(m.Sys-m.HeapReleased)
	}
	return max(0, min(left, addressSpaceLeft(), groupLeft()))
}

// Unused returns how many bytes the process can allocate before it meets a limit or
// takes what the machine has not got.
func Unused() int64 { return max(0, min(Available(), machineLeft())) }

// Buffers returns how much memory the workers of one operation may hold together:
// MaxBuffers, and less where a limit leaves less.
func Buffers() int64 {
	return buffers(Available())
}

func buffers(available int64) int64 {
	// Garbage that is not collected yet, tables and decoders take the rest.
	return max(minBuffers, min(MaxBuffers, available/4))
}

// Workers returns how many workers, each of which holds each bytes (buffers and
// the state of encoders), an operation that wants want of them may have: at least
// 1 and at most want.
func Workers(want int, each int64) int {
	return workers(want, each, Buffers())
}

// WorkersWithin is Workers for an operation whose workers may hold most bytes together, be
// that more than MaxBuffers.
func WorkersWithin(want int, each, most int64) int {
	return workers(want, each, max(minBuffers, min(most, Available()/4)))
}

func workers(want int, each, total int64) int {
	if each <= 0 {
		return max(1, want)
	}
	return int(max(1, min(int64(want), total/each)))
}

// Claim returns an error that wraps ErrNoMemory if n bytes cannot be allocated in
// one piece. It reserves nothing: allocate before anything else is claimed.
func Claim(n int64) error {
	// Small pieces come out of what the runtime has, or of its next arena.
	if n < arena/2 {
		return nil
	}
	if n > Available() || n > machineLeft() || !canReserve(n+arena+n/64) {
		return fmt.Errorf("%w: %d MiB are needed", ErrNoMemory, (n+1<<20-1)>>20)
	}
	return nil
}

// Apply fits the Go runtime to the limits of the process: the collector keeps the
// heap below them, and no more processors are used than there is memory for. Call
// it once, when the program starts.
func Apply() {
	left := min(addressSpaceLeft(), groupLeft())
	if left == math.MaxInt64 {
		return
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	// A quarter is left to what the heap's limit does not count, and to holes in
	// the address space.
	if limit := int64(m.Sys-m.HeapReleased) + left - left/4; limit < debug.SetMemoryLimit(-1) {
		debug.SetMemoryLimit(limit)
	}
	if n := int(max(1, min(left/perProcessor, math.MaxInt32))); n < runtime.GOMAXPROCS(0) {
		runtime.GOMAXPROCS(n)
	}
}
