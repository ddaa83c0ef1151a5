package server

import (
	"context"
	"os"

	"github.com/cowl-disk/cowl/nbd/wire"
)

// Device is what an export reads. Methods are called from several goroutines at
// once, with ranges inside the device and no longer than 32 MiB; a range of ReadAt
// and WriteAt is at most 512 KiB unless replies must be contiguous. ctx ends when
// the client is lost. An error is reported to the client as wire.ErrnoOf has it.
//
// What else a device can do it says by implementing the other interfaces here.
type Device interface {
	// Size is the length in bytes. It does not change while a client is there.
	Size() int64
	// ReadAt fills p from offset off.
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// Writer is a Device that can be written.
type Writer interface {
	Device
	// WriteAt writes p at off. With fua it returns when the data are durable. p
	// belongs to the caller again after the return.
	WriteAt(ctx context.Context, p []byte, off int64, fua bool) error
	// Flush makes durable what was written before the call.
	Flush(ctx context.Context) error
}

// Trimmer is a Writer that takes the hint that a range is no longer needed.
type Trimmer interface {
	Trim(ctx context.Context, off, n int64) error
}

// ZeroFlags modify WriteZeroes.
type ZeroFlags uint8

// The flags of WriteZeroes.
const (
	ZeroNoHole ZeroFlags = 1 << iota // the range keeps or gets its room
	ZeroFast                         // fail with wire.ENOTSUP rather than be as slow as writing
)

// ZeroWriter is a Writer that can write zeroes without being sent them.
type ZeroWriter interface {
	WriteZeroes(ctx context.Context, off, n int64, flags ZeroFlags) error
}

// Cacher is a Device that can prefetch.
type Cacher interface {
	Cache(ctx context.Context, off, n int64) error
}

// StatusReporter is a Device with metadata contexts.
type StatusReporter interface {
	// Contexts lists the names of the contexts, which do not change.
	Contexts() []string
	// BlockStatus describes n bytes at off in one of the contexts, from off on
	// without gaps: it calls yield with a length, larger than zero, and the flags
	// that the context has there, until the range is covered or yield returns
	// false. Neighbours with equal flags need not be merged.
	BlockStatus(ctx context.Context, context string, off, n int64, yield func(length int64, flags uint64) bool) error
}

// Limiter is a Device that wants requests of a certain size. Without it all
// requests are welcome, and 4 KiB are preferred.
type Limiter interface {
	Limits() wire.BlockSize
}

// SmallRequester is a Limiter that serves requests below its minimal block size too,
// if need be: clients that do not ask for block sizes may make them.
type SmallRequester interface {
	Limiter
	// SmallRequests does nothing: having it is what counts.
	SmallRequests()
}

// FileRanger is a Device whose bytes may be in a file of the system, from where
// they can be sent without being read first.
type FileRanger interface {
	// FileRange returns where in f the n bytes at off begin, if all of them are there
	// one after the other, as they are, and always will: the room may be written
	// anew, as the device is, but not be used for something else. f stays open as long
	// as the device is in use, and its position does not matter to anybody. It is no
	// problem if f turns out to be shorter: ReadAt is called then.
	FileRange(ctx context.Context, off, n int64) (f *os.File, at int64, ok bool)
}

// Export is a device under a name.
type Export struct {
	Name        string // "" is the default export
	Description string // for the user, may be empty
	Device      Device
	ReadOnly    bool // even if the device can be written
	// MultiConn says that several connections may be used as one: what one has
	// flushed is there for all. Devices of which this process has one instance
	// only, with one cache, can say so.
	MultiConn bool
}

func (e *Export) writer() Writer {
	if e.ReadOnly {
		return nil
	}
	w, _ := e.Device.(Writer)
	return w
}

// flags returns the transmission flags for a client with replies of the mode.
func (e *Export) flags(m mode) wire.TransFlags {
	// What cannot be written is always durable.
	f := wire.FlagHasFlags | wire.FlagSendFlush | wire.FlagSendFUA
	if w := e.writer(); w == nil {
		f |= wire.FlagReadOnly
	} else {
		if _, ok := w.(Trimmer); ok {
			f |= wire.FlagSendTrim
		}
		if _, ok := w.(ZeroWriter); ok {
			f |= wire.FlagSendWriteZeroes | wire.FlagSendFastZero
		}
	}
	if _, ok := e.Device.(Cacher); ok {
		f |= wire.FlagSendCache
	}
	if e.MultiConn {
		f |= wire.FlagCanMultiConn
	}
	if m >= modeStructured {
		f |= wire.FlagSendDF
	}
	if m == modeExtended {
		f |= wire.FlagBlockStatusPayload
	}
	return f
}

// blockSize is what binds a client, which has asked for it or not.
func (e *Export) blockSize(asked bool) wire.BlockSize {
	if l, ok := e.Device.(Limiter); ok {
		size := l.Limits()
		if _, ok := e.Device.(SmallRequester); ok && !asked {
			size.Min = 1
		}
		return size
	}
	return wire.BlockSize{Min: 1, Preferred: 4096, Max: wire.MaxPayload}
}

func (e *Export) contexts() []string {
	if r, ok := e.Device.(StatusReporter); ok {
		return r.Contexts()
	}
	return nil
}
