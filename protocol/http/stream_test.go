package http_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
	driverhttp "github.com/cowl-disk/cowl/protocol/http"
)

// stream opens the disk of a server without ranges, and counts what it sends and what
// the user is told.
func stream(t *testing.T, data []byte, sequential bool) (img *block.Image, o *object, sent, warnings *atomic.Int64) {
	t.Helper()
	sent, warnings = &atomic.Int64{}, &atomic.Int64{}
	o = &object{data: data}
	o.before = func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		for rest := data; len(rest) > 0; {
			k, err := w.Write(rest[:min(len(rest), 64<<10)])
			if err != nil {
				break
			}
			sent.Add(int64(k))
			rest = rest[k:]
		}
		return true
	}
	img, err := block.Open(t.Context(), block.NewRegistry(driverhttp.New()), block.Source{Options: opts.Dict{"driver": "http", "url": serve(t, o)}},
		block.OpenOptions{Gate: driver.DenyAll, Use: block.Use{Sequential: sequential}, Messages: block.Messages{Warn: func(string) { warnings.Add(1) }}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close(context.Background()) })
	return img, o, sent, warnings
}

// noise is a disk of n bytes, with a hole.
func noise(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(p)
	clear(p[n/3 : n/2])
	return p
}

// noTemp takes away the room for temporary files.
func noTemp(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("TMPDIR", none)
	t.Setenv("TMP", none)
	t.Setenv("TEMP", none)
}

// TestStreamCopy: a copy in order, by several readers, is one request and no file.
func TestStreamCopy(t *testing.T) {
	noTemp(t)
	data := noise(48<<20 + 5)
	img, o, _, warnings := stream(t, data, true)
	head := make([]byte, 2048)
	if _, err := img.ReadAt(t.Context(), head, 0); err != nil || !bytes.Equal(head, data[:2048]) {
		t.Fatal(err)
	}
	const piece = 1 << 20
	next := make(chan int)
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			p := make([]byte, piece)
			for off := range next {
				n, err := img.ReadAt(t.Context(), p, int64(off))
				if err != nil && err != io.EOF || !bytes.Equal(p[:n], data[off:min(off+piece, len(data))]) {
					t.Errorf("offset %d: %d bytes, %v", off, n, err)
				}
			}
		})
	}
	for off := 0; off < len(data); off += piece {
		next <- off
	}
	close(next)
	readers.Wait()
	if o.requests.Load() != 1 || warnings.Load() != 0 {
		t.Errorf("%d requests, %d warnings", o.requests.Load(), warnings.Load())
	}
}

// TestStreamBack: what was forgotten is fetched again, once, into a file.
func TestStreamBack(t *testing.T) {
	for _, whole := range []bool{false, true} { // whether the stream has ended
		data := noise(32 << 20)
		img, o, _, warnings := stream(t, data, true)
		p := make([]byte, 1<<20)
		end := 24 << 20
		if whole {
			end = len(data)
		}
		for off := 0; off < end; off += len(p) {
			if _, err := img.ReadAt(t.Context(), p, int64(off)); err != nil || !bytes.Equal(p, data[off:off+len(p)]) {
				t.Fatalf("offset %d: %v", off, err)
			}
		}
		for _, off := range []int{512, 31 << 20, 8 << 20} {
			if _, err := img.ReadAt(t.Context(), p, int64(off)); err != nil || !bytes.Equal(p, data[off:off+len(p)]) {
				t.Fatalf("offset %d: %v", off, err)
			}
		}
		if o.requests.Load() != 2 || warnings.Load() != 1 {
			t.Errorf("%d requests, %d warnings", o.requests.Load(), warnings.Load())
		}
	}
}

// TestStreamAnywhere: reads that follow no order are answered from a file, with one request.
func TestStreamAnywhere(t *testing.T) {
	if testing.Short() {
		t.Skip("moves much")
	}
	for _, sequential := range []bool{false, true} {
		data := noise(72 << 20)
		img, o, _, warnings := stream(t, data, sequential)
		p := make([]byte, 70<<10)
		for _, off := range []int{0, 71 << 20, 100, 40 << 20, 17 << 20} {
			if _, err := img.ReadAt(t.Context(), p, int64(off)); err != nil || !bytes.Equal(p, data[off:off+len(p)]) {
				t.Fatalf("offset %d: %v", off, err)
			}
		}
		if o.requests.Load() != 1 || warnings.Load() != 1 {
			t.Errorf("%d requests, %d warnings", o.requests.Load(), warnings.Load())
		}
	}
}

// TestStreamHead: who looks at the start only does not fetch all.
func TestStreamHead(t *testing.T) {
	noTemp(t)
	data := make([]byte, 256<<20)
	img, _, sent, _ := stream(t, data, false)
	if _, err := img.ReadAt(t.Context(), make([]byte, 64<<10), 0); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := sent.Load(); n > int64(len(data))/2 { // the system's buffers take some
		t.Errorf("%d bytes were sent", n)
	}
}

// TestStreamNoRoom: without room for a temporary file the error says so.
func TestStreamNoRoom(t *testing.T) {
	noTemp(t)
	img, _, _, _ := stream(t, noise(40<<20), false)
	if _, err := img.ReadAt(t.Context(), make([]byte, 512), 38<<20); err == nil || !bytes.Contains([]byte(err.Error()), []byte("no room for a temporary file")) {
		t.Error(err)
	}
}
