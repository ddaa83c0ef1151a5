package incus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz/lzma"

	"github.com/cowl-disk/cowl/internal/resources"
	"github.com/cowl-disk/cowl/internal/xz"
)

// newCompressor returns a writer that compresses to w. Closing it ends the stream and
// does not close w. Large archives become several streams one after the other, which
// every program for the method reads, so that processors can share the work; where they
// are cut does not depend on their number.
func newCompressor(ctx context.Context, w io.Writer, c Compression) (io.WriteCloser, error) {
	level := c.Level
	switch c.Method {
	case "none", "lz4":
		return nopCloser{w}, nil
	case "gzip":
		if !c.HasLevel {
			level = gzip.DefaultCompression
		}
		return newChunked(ctx, w, 4<<20, 12<<20, func() (chunkPacker, error) {
			z, err := gzip.NewWriterLevel(nil, level)
			return func(dst, src []byte) ([]byte, error) {
				b := bytes.NewBuffer(dst)
				z.Reset(b)
				_, err := z.Write(src)
				err = errors.Join(err, z.Close())
				return b.Bytes(), err
			}, err
		})
	case "zstd":
		if !c.HasLevel {
			level = 3
		}
		return newChunked(ctx, w, 8<<20, 40<<20, func() (chunkPacker, error) {
			z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1))
			return func(dst, src []byte) ([]byte, error) { return z.EncodeAll(src, dst), nil }, err
		})
	case "xz":
		chunk, dict := xzChunk, xz.Window
		switch {
		case c.HasLevel && level < 3:
			chunk, dict = 1<<20, 1<<20
		case c.HasLevel && level < 6:
			chunk, dict = 4<<20, 4<<20
		}
		return newChunked(ctx, w, chunk, xzMemory(chunk, dict), func() (chunkPacker, error) {
			e := xz.NewEncoder()
			return func(dst, src []byte) ([]byte, error) {
				if dst == nil { // room that is touched only as far as it is used
					dst = make([]byte, 0, chunk/2)
				}
				out, ok := e.Append(dst, src, dict, 2*chunk)
				if !ok {
					return nil, errors.New("xz: a chunk became longer than twice its length")
				}
				return out, nil
			}, nil
		})
	case "lzma":
		return lzma.WriterConfig{DictCap: dictionary(c), Size: -1, EOSMarker: true}.NewWriter(w)
	case "bzip2":
		return newProgram(ctx, w, c)
	}
	return nil, fmt.Errorf("compression %q is not supported", c.Method)
}

// xzChunk is twice as long as matches reach back, so that half of an archive has the whole
// of that before it and one below this length is compressed in one piece.
const xzChunk = 2 * xz.Window

// xzMemory is what one worker takes: trees, heads, what it reads and what it writes.
func xzMemory(chunk, dict int) int64 { return int64(8*dict + 8<<20 + chunk + chunk/2) }

// chunksMemory is what the workers of one archive take together. With the chunk that is
// being filled, the tree and the runtime it stays below 256 MiB.
const chunksMemory = 192 << 20

// dictionary is the size that xz takes for a level.
func dictionary(c Compression) int {
	if !c.HasLevel {
		return 8 << 20
	}
	return [...]int{256 << 10, 1 << 20, 2 << 20, 4 << 20, 4 << 20, 8 << 20, 8 << 20, 16 << 20, 32 << 20, 64 << 20}[c.Level]
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// chunkPacker appends the compressed form of src to dst. One goroutine at a time calls it.
type chunkPacker func(dst, src []byte) ([]byte, error)

// chunked cuts a stream into chunks of a size and compresses several at a time. Its buffers
// are used again: they are most of its memory, and garbage would double it.
type chunked struct {
	ctx   context.Context
	w     io.Writer
	size  int
	buf   []byte
	free  chan chunkPacker
	spare [2][][]byte        // of what is read, and of what is written
	queue []chan packedChunk // in order
	most  int
	wrote bool
	err   error

	filled bool // there was a whole chunk
}

type packedChunk struct {
	src, b []byte
	err    error
}

// newChunked starts a stream; each of its workers takes memory bytes.
func newChunked(ctx context.Context, w io.Writer, size int, memory int64, packer func() (chunkPacker, error)) (io.WriteCloser, error) {
	n := resources.WorkersWithin(resources.Processors(), memory, chunksMemory)
	c := &chunked{ctx: ctx, w: w, size: size, free: make(chan chunkPacker, n), most: n}
	for range n {
		p, err := packer()
		if err != nil {
			return nil, err
		}
		c.free <- p
	}
	return c, nil
}

func (c *chunked) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 && c.err == nil {
		if c.buf == nil {
			if c.buf = c.take(0); c.buf == nil {
				c.buf = make([]byte, 0, c.size)
			}
		}
		n := min(len(p), c.size-len(c.buf))
		c.buf = append(c.buf, p[:n]...)
		if p = p[n:]; len(c.buf) == c.size {
			c.filled = true
			c.start()
		}
	}
	return total - len(p), c.err
}

// start gives the buffer to a worker.
func (c *chunked) start() {
	if len(c.queue) == c.most {
		c.next()
	}
	src, dst, out := c.buf, c.take(1), make(chan packedChunk, 1)
	c.buf, c.wrote = nil, true
	c.queue = append(c.queue, out)
	pack := <-c.free
	go func() {
		b, err := pack(dst, src)
		c.free <- pack
		out <- packedChunk{src, b, err}
	}()
}

// take returns an empty buffer that was used before, or nil.
func (c *chunked) take(kind int) []byte {
	k := len(c.spare[kind]) - 1
	if k < 0 {
		return nil
	}
	b := c.spare[kind][k]
	c.spare[kind] = c.spare[kind][:k]
	return b[:0]
}

// next writes the oldest chunk.
func (c *chunked) next() {
	p := <-c.queue[0]
	c.queue = c.queue[1:]
	if c.err == nil {
		c.err = errors.Join(p.err, c.ctx.Err())
	}
	if c.err == nil {
		_, c.err = c.w.Write(p.b)
	}
	for kind, b := range [2][]byte{p.src, p.b} {
		if b != nil {
			c.spare[kind] = append(c.spare[kind], b)
		}
	}
}

// Close ends the stream and waits for the workers.
func (c *chunked) Close() error {
	if c.err == nil && (len(c.buf) > 0 || !c.wrote) {
		c.start()
	}
	for len(c.queue) > 0 {
		c.next()
	}
	c.release()
	return c.err
}

// release gives up the workers and buffers. What comes after an archive, reading it back,
// makes less garbage than the workers held: the collector would not begin for long.
func (c *chunked) release() {
	c.buf, c.spare = nil, [2][][]byte{}
	for len(c.free) > 0 {
		<-c.free
	}
	if c.filled {
		runtime.GC()
	}
}

// program compresses by a program of the host.
type program struct {
	io.WriteCloser
	cmd    *exec.Cmd
	errors bytes.Buffer
}

// newProgram starts the host's program for a method that no maintained library writes.
func newProgram(ctx context.Context, w io.Writer, c Compression) (io.WriteCloser, error) {
	path, err := exec.LookPath(c.Method)
	if err != nil {
		return nil, fmt.Errorf("compression %s is done by the program of that name, which this machine lacks: %w", c.Method, err)
	}
	p := &program{}
	args := []string{"-c"}
	if c.HasLevel {
		args = append(args, fmt.Sprintf("-%d", c.Level))
	}
	p.cmd = exec.CommandContext(ctx, path, args...)
	p.cmd.Env = []string{"LC_ALL=C"} // no options from variables
	p.cmd.Stdout, p.cmd.Stderr = w, &p.errors
	if p.WriteCloser, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return p, p.cmd.Start()
}

// Close waits for the program.
func (p *program) Close() error {
	err := p.WriteCloser.Close()
	if waitErr := p.cmd.Wait(); waitErr != nil {
		err = errors.Join(err, fmt.Errorf("%s: %w: %.200s", p.cmd.Path, waitErr, p.errors.String()))
	}
	return err
}
