package server

import (
	"os"

	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/zero"
	"github.com/cowl-disk/cowl/nbd/wire"
)

const (
	// fileMin is the shortest range that is sent from its file: below, a copy that
	// stays in the processor's caches costs less.
	fileMin = 256 << 10
	// probeLen is how much is looked at before, at either end of a range and wherever
	// another piece of it begins.
	probeLen = 4096
)

// fileRange returns a part for n bytes at off that is sent from the file where they
// lie. ok is false if they must be read: there is no such file or socket, they would
// have to be waited for while nothing else can be sent to the client, or they may be
// zeroes of which the client can be told instead.
func (c *conn) fileRange(req *wire.Request, off int64, n int) (p part, ok bool) {
	if c.ranger == nil || n < fileMin || c.noFile.Load() {
		return p, false
	}
	f, at, ok := c.ranger.FileRange(c.ctx, off, int64(n))
	if !ok {
		return p, false
	}
	buf := bufpool.Get(probeLen)
	defer bufpool.Put(buf)
	holes := c.sparse(req)
	if holes && hasHole(f, at, n) {
		return p, false
	}
	last := at + int64(n) - probeLen
	for pos := at; ; pos = min(pos+piece, last) {
		if !cached(f, buf, pos) {
			return p, false
		}
		holes = holes && zero.IsZero(buf)
		if pos == last {
			break
		}
	}
	if holes {
		return p, false
	}
	return part{file: fileExtent{f, at, off, n}}, true
}

// fileExtent is n bytes of a device at off that are found in f at the offset at.
type fileExtent struct {
	f       *os.File
	at, off int64
	n       int
}

// sendExtent sends e. The caller has the right to write.
func (c *conn) sendExtent(e fileExtent) error {
	done, err := sendFile(c.socket, e.f, e.at, e.n)
	if err != nil || done == e.n {
		return err
	}
	if done == 0 {
		c.noFile.Store(true)
	}
	// The file has become shorter, or the system cannot do it: the device has the
	// last word. The header says success: an error can only end the connection.
	buf := bufpool.Get(min(piece, e.n-done))
	defer bufpool.Put(buf)
	for done < e.n {
		p := buf[:min(len(buf), e.n-done)]
		if err := c.dev.ReadAt(c.ctx, p, e.off+int64(done)); err != nil {
			return err
		}
		if _, err := c.nc.Write(p); err != nil {
			return err
		}
		done += len(p)
	}
	return nil
}
