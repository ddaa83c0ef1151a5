//go:build unix

package differential

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// chunkReader is a client that shows in which chunks reads are answered.
type chunkReader struct {
	t  *testing.T
	nc net.Conn
}

func dialChunks(t *testing.T, sock string) *chunkReader {
	t.Helper()
	nc, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(time.Minute))
	c := &chunkReader{t, nc}
	c.read(18)
	hello := binary.BigEndian.AppendUint32(nil, 3) // fixed newstyle, no zeroes
	for _, o := range []struct {
		option uint32
		data   []byte
	}{{8, nil}, {7, make([]byte, 6)}} { // structured replies; go, with no name and no requests
		hello = append(hello, "IHAVEOPT"...)
		hello = binary.BigEndian.AppendUint32(hello, o.option)
		hello = append(binary.BigEndian.AppendUint32(hello, uint32(len(o.data))), o.data...)
	}
	c.write(hello)
	for acks := 0; acks < 2; {
		head := c.read(20)
		switch kind := binary.BigEndian.Uint32(head[12:]); {
		case kind == 1:
			acks++
		case kind>>31 != 0:
			t.Fatalf("option %d: refused", binary.BigEndian.Uint32(head[8:]))
		}
		c.read(int(binary.BigEndian.Uint32(head[16:])))
	}
	return c
}

func (c *chunkReader) write(p []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(p); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chunkReader) read(n int) []byte {
	c.t.Helper()
	p := make([]byte, n)
	if _, err := io.ReadFull(c.nc, p); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// chunks reads n bytes at off and lists the chunks of the answer, by offset.
// Neighbours of one kind are one.
func (c *chunkReader) chunks(off, n int64, flags uint16) (list []string, data []byte) {
	c.t.Helper()
	req := make([]byte, wire.RequestLen)
	(&wire.Request{Flags: wire.CmdFlags(flags), Type: wire.CmdRead, Cookie: 1, Offset: uint64(off), Length: uint64(n)}).Put(req)
	c.write(req)
	type chunk struct {
		off, n int64
		hole   bool
	}
	var all []chunk
	data = make([]byte, n)
	for done := false; !done; {
		head := c.read(wire.StructuredReplyLen)
		r, err := wire.ParseReply(head)
		if err != nil {
			c.t.Fatal(err)
		}
		done = r.Done()
		p := c.read(int(r.Length))
		switch r.Type {
		case wire.ChunkNone:
		case wire.ChunkOffsetData:
			at := int64(binary.BigEndian.Uint64(p))
			copy(data[at-off:], p[8:])
			all = append(all, chunk{at, int64(len(p) - 8), false})
		case wire.ChunkOffsetHole:
			at, k, err := wire.ParseOffsetHole(p)
			if err != nil {
				c.t.Fatal(err)
			}
			all = append(all, chunk{int64(at), int64(k), true})
		default:
			c.t.Fatalf("chunk of type %v", r.Type)
		}
	}
	slices.SortFunc(all, func(a, b chunk) int { return int(a.off - b.off) })
	for i := 0; i < len(all); {
		x := all[i]
		for i++; i < len(all) && all[i].hole == x.hole && all[i].off == x.off+x.n; i++ {
			x.n += all[i].n
		}
		kind := "data"
		if x.hole {
			kind = "hole"
		}
		list = append(list, fmt.Sprintf("%s %d+%d", kind, x.off, x.n))
	}
	return list, data
}

// TestNBDChunks reads disks with holes from both servers: the chunks are the same, in
// small and in large reads, and so are the bytes.
func TestNBDChunks(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	dir := t.TempDir()
	img := func(name string, options string, size string, changes ...string) {
		t.Helper()
		args := []string{"create", "-q", "-f", filepath.Ext(name)[1:]}
		if options != "" {
			args = append(args, "-o", options)
		}
		testkit.Run(t, "qemu-img", append(args, filepath.Join(dir, name), size)...)
		for _, c := range changes {
			testkit.Run(t, "qemu-io", "-f", filepath.Ext(name)[1:], "-c", c, filepath.Join(dir, name))
		}
	}
	img("small.qcow2", "cluster_size=512", "4k", "write -q -P 1 0 2560", "write -q -P 2 3072 1024")
	img("large.qcow2", "", "8M", "write -q -P 1 0 100k", "write -q -P 3 1M 65537", "write -q -P 4 3M 2M", "write -q -z 4M 128k")
	img("fine.qcow2", "extended_l2=on", "4M", "write -q -P 1 4k 2k", "write -q -P 1 70k 1k", "write -q -P 5 1M 1M")
	img("disk.raw", "", "8M", "write -q -P 1 0 100k", "write -q -P 3 1M 64k", "write -q -P 4 3M 2M", "discard 4M 128k")
	for _, c := range []struct {
		name  string
		reads [][2]int64
	}{
		{"small.qcow2", [][2]int64{{2048, 2048}, {2560, 512}, {2559, 514}, {0, 4096}}},
		{"large.qcow2", [][2]int64{{0, 8 << 20}, {64 << 10, 64 << 10}, {1 << 20, 1 << 20}, {3 << 20, 2 << 20}, {1<<20 + 65000, 4096}, {200 << 10, 512}, {3<<20 + 512<<10, 700 << 10}}},
		{"fine.qcow2", [][2]int64{{0, 4 << 20}, {0, 64 << 10}, {64 << 10, 64 << 10}, {1<<20 - 512, 1024}}},
		{"disk.raw", [][2]int64{{0, 8 << 20}, {64 << 10, 64 << 10}, {1 << 20, 1 << 20}, {3 << 20, 2 << 20}, {3<<20 + 512<<10, 700 << 10}, {200 << 10, 512}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"-r", "-f", filepath.Ext(c.name)[1:], c.name}
			a, b := dialChunks(t, startNBD(t, dir, theirs, 1, args...).sock), dialChunks(t, startNBD(t, dir, ours, 1, args...).sock)
			for _, r := range c.reads {
				want, wantData := a.chunks(r[0], r[1], 0)
				got, data := b.chunks(r[0], r[1], 0)
				if !slices.Equal(got, want) {
					t.Errorf("%d bytes at %d:\n%q, QEMU's answer is\n%q", r[1], r[0], got, want)
				}
				if !slices.Equal(data, wantData) {
					t.Errorf("%d bytes at %d differ", r[1], r[0])
				}
				one := []string{fmt.Sprintf("data %d+%d", r[0], r[1])}
				if got, data := b.chunks(r[0], r[1], uint16(wire.CmdFlagDF)); !slices.Equal(got, one) || !slices.Equal(data, wantData) {
					t.Errorf("%d bytes at %d, not to be fragmented: %q", r[1], r[0], got)
				}
			}
		})
	}
}
