package vhdx_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/vhdx"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

// The places of new images.
const (
	mib   = 1 << 20
	logAt = mib
	table = 2 * mib
	meta  = 3 * mib
	data  = 8 * mib
	size  = 10 * mib
)

var le = binary.LittleEndian

func fill(b byte) []byte { return bytes.Repeat([]byte{b}, mib) }

// world is a lab with a disk called a, of blocks of 1 MiB, of which some are full.
type world struct{ *drivertest.Lab }

func newWorld(t *testing.T, o opts.Dict) world {
	t.Helper()
	l := world{drivertest.NewLab(t, vhdx.New(), le)}
	if o["block_size"] == nil {
		o["block_size"] = "1M"
	}
	l.Create("a", size, o)
	img := l.Open("a")
	l.Write(img, 0, fill(1))
	l.Write(img, 4*mib, fill(2))
	l.Close(img)
	return l
}

// bytes returns a part of a file.
func (l world) bytes(name string, off int64, n int) []byte {
	l.T.Helper()
	b := make([]byte, n)
	if _, err := l.Mem.Disk(name).ReadAt(context.Background(), b, off); err != nil {
		l.T.Fatal(err)
	}
	return b
}

func (l world) put(name string, off int64, b []byte) {
	l.T.Helper()
	if _, err := l.Mem.Disk(name).WriteAt(context.Background(), b, off); err != nil {
		l.T.Fatal(err)
	}
}

func seal(b []byte) []byte {
	le.PutUint32(b[4:], 0)
	le.PutUint32(b[4:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// change changes a part of a file that has a checksum.
func (l world) change(name string, off int64, n int, fn func(b []byte)) {
	b := l.bytes(name, off, n)
	fn(b)
	l.put(name, off, seal(b))
}

// headers changes both headers.
func (l world) headers(name string, fn func(b []byte)) {
	for _, off := range []int64{64 << 10, 128 << 10} {
		l.change(name, off, 4096, fn)
	}
}

// logEntry returns an entry of a log whose changes are sectors of the file, and zeroes where
// a sector is nil.
func logEntry(id byte, tail uint32, sequence uint64, last int64, offs []int64, sectors [][]byte) []byte {
	b := make([]byte, 4096)
	copy(b, "loge")
	le.PutUint32(b[12:], tail)
	le.PutUint64(b[16:], sequence)
	le.PutUint32(b[24:], uint32(len(offs)))
	b[32] = id
	le.PutUint64(b[48:], mib)
	le.PutUint64(b[56:], uint64(last))
	for i, off := range offs {
		d := b[64+32*i:][:32]
		le.PutUint64(d[16:], uint64(off))
		le.PutUint64(d[24:], sequence)
		s := sectors[i]
		if s == nil {
			copy(d, "zero")
			le.PutUint64(d[8:], 8192)
			continue
		}
		copy(d, "desc")
		copy(d[4:], s[4092:])
		copy(d[8:], s[:8])
		p := bytes.Clone(s)
		copy(p, "data")
		le.PutUint32(p[4:], uint32(sequence>>32))
		le.PutUint32(p[4092:], uint32(sequence))
		b = append(b, p...)
	}
	le.PutUint32(b[8:], uint32(len(b)))
	return seal(b)
}

// TestReplay: of the log, the entries that the newest whole sequence has are replayed, in the
// file or in memory.
func TestReplay(t *testing.T) {
	const id = 7
	sector := func(v ...uint64) []byte {
		b := bytes.Repeat([]byte{0}, 4096)
		for i, x := range v {
			le.PutUint64(b[8*i:], x)
		}
		b[4095] = 0xee
		return b
	}
	old := sector(2, 2, 2, 2, 2, 2, 2, 2, 2, data|6) // the first block at the end of the disk
	first := sector(data | 6)
	second := sector(2, data|6)
	for _, c := range []struct {
		name string
		log  func(l world)
		at   int64 // of block 1's data on the disk; -1: nothing is replayed
		ends error
	}{
		{"one", func(l world) {
			l.put("a", logAt, logEntry(id, 0, 5, 12*mib, []int64{table}, [][]byte{first}))
		}, 0, nil},
		{"two, the later one counts", func(l world) {
			e := logEntry(id, 0, 5, 12*mib, []int64{table}, [][]byte{first})
			l.put("a", logAt, append(e, logEntry(id, 0, 6, 12*mib, []int64{table}, [][]byte{second})...))
		}, mib, nil},
		{"over the end of the ring", func(l world) {
			e := append(logEntry(id, mib-4096, 5, 12*mib, []int64{table}, [][]byte{first}), logEntry(id, mib-4096, 6, 12*mib, []int64{table}, [][]byte{second})...)
			l.put("a", logAt+mib-4096, e[:4096])
			l.put("a", logAt, e[4096:])
		}, mib, nil},
		{"zeroes, then a sector", func(l world) {
			l.put("a", logAt, logEntry(id, 0, 5, 12*mib, []int64{table, table}, [][]byte{nil, second}))
		}, mib, nil},
		{"a sector, then zeroes", func(l world) {
			l.put("a", logAt, logEntry(id, 0, 5, 12*mib, []int64{table, table}, [][]byte{second, nil}))
		}, -2, nil},
		{"of another log", func(l world) {
			l.put("a", logAt, logEntry(id+1, 0, 5, 12*mib, []int64{table}, [][]byte{first}))
		}, -1, nil},
		{"the newest is torn", func(l world) {
			e := logEntry(id, 0, 5, 12*mib, []int64{table}, [][]byte{second})
			torn := logEntry(id, uint32(len(e)), 6, 12*mib, []int64{table}, [][]byte{first})
			torn[5000] ^= 1
			l.put("a", logAt, append(e, torn...))
		}, mib, nil},
		{"a number is missing", func(l world) {
			e := logEntry(id, 0, 5, 12*mib, []int64{table}, [][]byte{old})
			e = append(e, logEntry(id, 0, 7, 12*mib, []int64{table}, [][]byte{second})...)
			l.put("a", logAt, e)
		}, 9 * mib, nil},
		{"the file was cut off", func(l world) {
			e := logEntry(id, 0, 5, 12*mib, []int64{table}, [][]byte{second})
			le.PutUint64(e[48:], 1<<30)
			l.put("a", logAt, seal(e))
		}, 0, driver.ErrCorrupt},
		{"behind the end of the file", func(l world) {
			l.put("a", logAt, logEntry(id, 0, 5, 12*mib, []int64{1 << 40}, [][]byte{second}))
		}, 0, driver.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newWorld(t, opts.Dict{})
			l.headers("a", func(b []byte) { b[48] = id })
			c.log(l)
			before := l.bytes("a", 0, int(l.Mem.Disk("a").Size()))
			show := func(img *block.Image) {
				t.Helper()
				got := make([]byte, size)
				if _, err := img.ReadAt(t.Context(), got, 0); err != nil {
					t.Fatal(err)
				}
				switch c.at {
				case -1:
					if !bytes.Equal(got[:mib], fill(1)) || !bytes.Equal(got[4*mib:5*mib], fill(2)) {
						t.Error("the disk is another one")
					}
				case -2:
					if !bytes.Equal(got, make([]byte, size)) {
						t.Error("the zeroes were not replayed")
					}
				default:
					if at := int64(bytes.IndexByte(got, 1)); at != c.at || !bytes.Equal(got[at:at+mib], fill(1)) {
						t.Errorf("the block is at %d", at)
					}
				}
			}
			img, err := l.TryOpen("a", block.OpenOptions{})
			if c.ends != nil {
				if !errors.Is(err, c.ends) {
					t.Fatal(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			show(img)
			l.Close(img)
			if !bytes.Equal(l.bytes("a", 0, len(before)), before) {
				t.Fatal("opening for reading has changed the file")
			}
			res, _ := l.Check("a", driver.CheckFix{Errors: true})
			if want := c.at != -1; (res.CorruptionsFixed == 1) != want || res.Corruptions != 0 {
				t.Errorf("check: %+v", res)
			}
			if c.at != -1 {
				if g := l.bytes("a", 64<<10+48, 16); !bytes.Equal(g, make([]byte, 16)) {
					t.Error("the header says that there is a log")
				}
			}
			img = l.Open("a")
			show(img)
			l.Close(img)
		})
	}
}

// TestHostileLogs: logs of strangers cost little memory and end, whatever they hold.
func TestHostileLogs(t *testing.T) {
	const id, at = 7, 32 * mib
	// A log of its own, of n bytes.
	moved := func(l world, n uint32, b []byte) {
		l.headers("a", func(b []byte) {
			b[48] = id
			le.PutUint32(b[68:], n)
			le.PutUint64(b[72:], at)
		})
		l.put("a", at, b)
		if err := l.Mem.Disk("a").Resize(context.Background(), at+int64(n), driver.ResizeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	sector := bytes.Repeat([]byte{0xee}, 4096)
	for _, c := range []struct {
		name string
		log  func(l world)
		ends error // nil: none is asked for
	}{
		{"ranges of zeroes without end", func(l world) {
			b := make([]byte, 24*mib)
			copy(b, "loge")
			le.PutUint32(b[8:], uint32(len(b)))
			le.PutUint64(b[16:], 5)
			le.PutUint32(b[24:], uint32(len(b)-64)/32)
			b[32] = id
			le.PutUint64(b[56:], 64*mib)
			for d := b[64:]; len(d) > 0; d = d[32:] {
				copy(d, "zero")
				le.PutUint64(d[8:], 4096)
				le.PutUint64(d[24:], 5)
			}
			moved(l, uint32(len(b)), seal(b))
		}, driver.ErrBudget},
		{"more descriptors than the log has room for", func(l world) {
			b := logEntry(id, 0, 5, 64*mib, []int64{table}, [][]byte{sector})
			le.PutUint32(b[24:], 1<<32-1)
			moved(l, 24*mib, seal(b))
		}, nil},
		{"an entry as long as a log can be", func(l world) {
			b := logEntry(id, 0, 5, 64*mib, []int64{table}, [][]byte{sector})
			le.PutUint32(b[8:], 1<<32-mib)
			moved(l, 1<<32-mib, seal(b))
		}, nil},
		{"entries whose tails are each other's", func(l world) {
			var b []byte
			const n = 2000
			for i := range n {
				b = append(b, logEntry(id, uint32((i+1)%n*4096), uint64(n-i), 64*mib, nil, nil)...)
			}
			moved(l, 8*mib, b)
		}, nil},
		{"entries that all begin at the first", func(l world) {
			var b []byte
			for i := range 2000 {
				// Each second one is not the successor of the one before.
				b = append(b, logEntry(id, 0, uint64(1+i+i%2), 64*mib, nil, nil)...)
			}
			moved(l, 8*mib, b)
		}, nil},
		{"a file of exabytes", func(l world) {
			moved(l, mib, logEntry(id, 0, 5, 1<<62, []int64{1 << 61}, [][]byte{sector}))
		}, driver.ErrCorrupt},
		{"zeroes over all", func(l world) {
			b := logEntry(id, 0, 5, 100*mib, []int64{0}, [][]byte{nil})
			le.PutUint64(b[64+8:], 1<<62)
			moved(l, mib, seal(b))
		}, driver.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newWorld(t, opts.Dict{})
			c.log(l)
			err := openHostile(t, l)
			if c.ends != nil && !errors.Is(err, c.ends) {
				t.Error(err)
			}
		})
	}
	t.Run("mutated", func(t *testing.T) {
		l := newWorld(t, opts.Dict{})
		l.headers("a", func(b []byte) { b[48] = id })
		e := logEntry(id, 0, 5, 12*mib, []int64{table, table + 4096}, [][]byte{sector, nil})
		e = append(e, logEntry(id, 0, 6, 12*mib, []int64{table, 3 * mib}, [][]byte{nil, sector})...)
		r := testkit.Rand(12)
		for range testkit.Count(100) {
			b := bytes.Clone(e)
			for range 1 + r.IntN(3) {
				// What heads and descriptors hold, more often than data.
				i := r.IntN(2)*8192 + r.IntN(130)
				b[min(i, len(b)-1)] = byte(r.Uint32() >> r.IntN(8))
			}
			if r.IntN(4) > 0 { // a checksum that is right
				for _, at := range []int{0, 8192} {
					if n := int(le.Uint32(b[at+8:])); n >= 4096 && at+n <= len(b) {
						copy(b[at:], seal(b[at:at+n]))
					}
				}
			}
			l.put("a", logAt, b)
			_ = openHostile(t, l)
		}
	})
}

// openHostile opens a for reading, reads it, and returns the error if either fails.
func openHostile(t *testing.T, l world) error {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	started := time.Now()
	img, err := l.TryOpen("a", block.OpenOptions{})
	runtime.ReadMemStats(&after)
	if err == nil {
		_, err = img.ReadAt(t.Context(), make([]byte, mib), 0)
		l.Close(img)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
	if d := time.Since(started); d > time.Minute {
		t.Errorf("took %v", d)
	}
	return err
}

// TestOwnLog: what a crash leaves of our writes is a log that is whole.
func TestOwnLog(t *testing.T) {
	l := newWorld(t, opts.Dict{})
	img := l.Open("a")
	l.Write(img, 2*mib, fill(3))
	if err := img.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.Mem.Add("b", l.Mem.Disk("a").Clone())
	l.Close(img)
	l.Poke("b", table+16, 8, 0) // as if the sector had not reached its place
	img, err := l.TryOpen("b", block.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l.Want(img, 2*mib, fill(3))
	l.Close(img)
}

// TestRequired: what an image requires and we do not know is refused; the rest is ignored.
func TestRequired(t *testing.T) {
	regions := func(l world, fn func(b []byte)) {
		for _, off := range []int64{192 << 10, 256 << 10} {
			l.change("a", off, 64<<10, fn)
		}
	}
	add := func(flags byte) func(l world) { // a further region
		return func(l world) {
			regions(l, func(b []byte) {
				b[8] = 3
				e := b[16+2*32:]
				e[0], e[16+2], e[24+2], e[28] = 1, 4*16, 16, flags
			})
		}
	}
	item := func(flags byte) func(l world) { // a further item
		return func(l world) {
			b := l.bytes("a", meta, 64<<10)
			b[10] = 6
			e := b[32*6:]
			e[0], e[18], e[20], e[24] = 1, 2, 8, flags
			l.put("a", meta, b)
		}
	}
	poke := func(off int64, width int, v uint64) func(l world) {
		return func(l world) { l.Poke("a", off, width, v) }
	}
	for _, c := range []struct {
		name   string
		damage func(l world)
		want   error
	}{
		{"a region", add(0), nil},
		{"a region that is required", add(1), driver.ErrUnsupported},
		{"an item", item(0), nil},
		{"a user's item", item(1), nil},
		{"an item that is required", item(4), driver.ErrUnsupported},
		{"a user's item that is required", item(5), driver.ErrUnsupported},
		{"the first region table is damaged", func(l world) { l.Poke("a", 192<<10, 4, 0) }, nil},
		{"both region tables are damaged", func(l world) { l.Poke("a", 192<<10, 4, 0); l.Poke("a", 256<<10, 4, 0) }, driver.ErrCorrupt},
		{"regions overlap", func(l world) { regions(l, func(b []byte) { b[16+16+2] = 0x30 }) }, driver.ErrCorrupt},
		{"a region in the log", func(l world) { regions(l, func(b []byte) { b[16+16+2] = 0x10 }) }, driver.ErrCorrupt},
		{"a region twice", func(l world) { regions(l, func(b []byte) { copy(b[16+32:16+48], b[16:32]) }) }, driver.ErrCorrupt},
		{"no metadata", func(l world) { regions(l, func(b []byte) { b[8] = 1 }) }, driver.ErrCorrupt},
		{"the first header is damaged", poke(64<<10, 4, 0), nil},
		{"the second header is damaged", poke(128<<10, 4, 0), nil},
		{"both headers are damaged", func(l world) { l.Poke("a", 64<<10, 4, 0); l.Poke("a", 128<<10, 4, 0) }, driver.ErrCorrupt},
		{"the version of the log", func(l world) { l.headers("a", func(b []byte) { b[64] = 1 }) }, driver.ErrUnsupported},
		{"a log in front", func(l world) { l.headers("a", func(b []byte) { le.PutUint64(b[72:], 4096) }) }, driver.ErrCorrupt},
		{"blocks of 3 MiB", poke(meta+64<<10, 4, 3*mib), driver.ErrCorrupt},
		{"blocks of 512 MiB", poke(meta+64<<10, 4, 512*mib), driver.ErrCorrupt},
		{"a disk of 65 TiB", poke(meta+64<<10+8, 8, 65<<40), driver.ErrCorrupt},
		{"a disk too large for its table", poke(meta+64<<10+8, 8, 1<<40), driver.ErrCorrupt},
		{"sectors of 1024 bytes", poke(meta+64<<10+32, 4, 1024), driver.ErrCorrupt},
		{"a parent, and no locator", poke(meta+64<<10+4, 4, 2), driver.ErrCorrupt},
		{"an item behind the region", poke(meta+32+16, 4, mib), driver.ErrCorrupt},
		{"an item missing", func(l world) { l.Poke("a", meta+32, 4, 0) }, driver.ErrUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newWorld(t, opts.Dict{})
			c.damage(l)
			for _, write := range []bool{false, true} {
				img, err := l.TryOpen("a", block.OpenOptions{Write: write})
				if !errors.Is(err, c.want) || err != nil && c.want == nil {
					t.Fatalf("%v, want %v", err, c.want)
				}
				if err == nil {
					l.Want(img, 0, fill(1))
					l.Close(img)
				}
			}
		})
	}
}

// TestBadEntries: an entry that cannot be right fails its block and no other, and is
// repaired.
func TestBadEntries(t *testing.T) {
	for _, c := range []struct {
		name  string
		entry uint64
	}{
		{"over the log", logAt | 6}, {"over the table", table | 6}, {"in front", 6}, {"state 4", 4}, {"state 7 without a parent", data | 7},
		{"behind the end", 1<<40 | 6}, {"twice", data | 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newWorld(t, opts.Dict{})
			l.Poke("a", table+3*8, 8, c.entry)
			img, err := l.TryOpen("a", block.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			l.Want(img, 0, fill(1))
			if _, err := img.ReadAt(t.Context(), make([]byte, 512), 3*mib); c.name != "twice" && !errors.Is(err, driver.ErrCorrupt) && !errors.Is(err, driver.ErrTruncated) {
				t.Error(err)
			}
			l.Close(img)
			if res, lines := l.Check("a", driver.CheckFix{}); res.Corruptions != 1 || len(lines) != 1 {
				t.Errorf("%+v %q", res, lines)
			}
			if res, _ := l.Check("a", driver.CheckFix{Errors: true}); res.CorruptionsFixed != 1 {
				t.Errorf("%+v", res)
			}
			if res, lines := l.Check("a", driver.CheckFix{}); res.Corruptions != 0 {
				t.Errorf("%+v %q", res, lines)
			}
			img = l.Open("a")
			l.Want(img, 4*mib, fill(2))
			l.Close(img)
		})
	}
}

// makePartial makes b, on top of a: its first block has some sectors, which a bitmap tells.
func makePartial(t *testing.T, l world, logical int) *testkit.Model {
	t.Helper()
	l.Create("b", size, opts.Dict{"backing_file": "mem:a", "backing_fmt": "vhdx", "block_size": "1M"})
	b := l.Mem.Disk("b")
	end := b.Size()
	own := fill(0xbb)
	bits := make([]byte, mib/logical/8)
	testkit.Fill(testkit.Rand(3), bits[:len(bits)*2/3])
	m := testkit.NewModel(size)
	m.Write(fill(1), 0)
	m.Write(fill(2), 4*mib)
	for i := range mib / logical {
		if bits[i/8]>>(i%8)&1 != 0 {
			m.Write(own[:logical], int64(i*logical))
		}
	}
	ratio := int64(8<<20) * int64(logical) / mib
	l.put("b", end, own)
	l.put("b", end+mib, append(bits, make([]byte, mib-len(bits))...))
	l.Poke("b", table, 8, uint64(end)|7)
	l.Poke("b", table+ratio*8, 8, uint64(end+mib)|6)
	return m
}

// TestDifferencing: sectors that the bitmap leaves out are those of the parent, before and
// after random changes.
func TestDifferencing(t *testing.T) {
	for _, logical := range []int{512, 4096} {
		o := opts.Dict{}
		if logical == 4096 {
			o["logical_sector_size"] = "4096"
		}
		l := newWorld(t, o)
		m := makePartial(t, l, logical)
		compare := func(img *block.Image) {
			t.Helper()
			got := make([]byte, m.Size())
			if _, err := img.ReadAt(t.Context(), got, 0); err != nil {
				t.Fatal(err)
			}
			if d := m.Diff(got, 0); d != "" {
				t.Fatalf("sectors of %d: %s", logical, d)
			}
		}
		img, err := l.TryOpen("b", block.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		compare(img)
		l.Close(img)
		if res, lines := l.Check("b", driver.CheckFix{}); res.Corruptions != 0 {
			t.Errorf("%+v %q", res, lines)
		}
		img = l.Open("b")
		// Zeroes over all of a block that has a part of its sectors.
		if err := img.WriteZeroes(t.Context(), mib, mib, 0); err != nil {
			t.Fatal(err)
		}
		m.Zero(mib, mib)
		r := testkit.Rand(5)
		for range 30 {
			off := r.Int64N(size - 100<<10)
			p := make([]byte, 1+r.IntN(100<<10))
			testkit.Fill(r, p)
			l.Write(img, off, p)
			m.Write(p, off)
		}
		if err := img.Resize(t.Context(), 2*size, driver.ResizeOptions{}); err != nil {
			t.Fatal(err)
		}
		m.Resize(2 * size)
		compare(img)
		l.Close(img)
		img = l.Open("b")
		compare(img)
		l.Close(img)
	}
}

// TestNoSectors: zeroes over a block of which no sector is there replace those of the parent.
func TestNoSectors(t *testing.T) {
	l := newWorld(t, opts.Dict{})
	makePartial(t, l, 512)
	l.put("b", int64(l.Peek("b", table+4096*8, 8))&^(mib-1), make([]byte, mib))
	img := l.Open("b")
	l.Want(img, 0, fill(1))
	if err := img.WriteZeroes(t.Context(), 0, mib, 0); err != nil {
		t.Fatal(err)
	}
	l.Want(img, 0, make([]byte, mib))
	l.Close(img)
}

// TestParent: a parent is known by its contents, which change with its first write.
func TestParent(t *testing.T) {
	l := newWorld(t, opts.Dict{})
	l.Create("b", 2*size, opts.Dict{"backing_file": "mem:a"})
	img := l.Open("b")
	l.Want(img, 4*mib, fill(2))
	l.Want(img, size, fill(0))
	l.Write(img, 9*mib, fill(5))
	l.Close(img)
	img = l.Open("a")
	l.Close(img) // opened and not written to
	img = l.Open("b")
	l.Want(img, 9*mib, fill(5))
	l.Close(img)
	img = l.Open("a")
	l.Write(img, mib, []byte{1})
	l.Close(img)
	if img, err := l.TryOpen("b", block.OpenOptions{}); !errors.Is(err, driver.ErrCorrupt) || !strings.Contains(err.Error(), "modified") {
		if err == nil {
			l.Close(img)
		}
		t.Error(err)
	}
}

// TestFollowed: a parent that is written to by way of the child stays the parent.
func TestFollowed(t *testing.T) {
	l := newWorld(t, opts.Dict{})
	l.Create("b", size, opts.Dict{"backing_file": "mem:a"})
	img, err := l.TryOpen("b", block.OpenOptions{Write: true, Chain: block.ChainUse{WriteBacking: true}})
	if err != nil {
		t.Fatal(err)
	}
	l.Write(img.Backing(), mib, fill(6))
	l.Close(img)
	img = l.Open("b")
	l.Want(img, mib, fill(6))
	l.Close(img)
}

// TestResize: a table that is too short for the disk moves, and the disk is what it was.
func TestResize(t *testing.T) {
	for _, kind := range []string{"dynamic", "fixed"} {
		l := newWorld(t, opts.Dict{"subformat": kind})
		img := l.Open("a")
		large := int64(200 << 30) // 200 Ki entries
		if kind == "fixed" {
			large = 100 * mib
			// A longer table of garbage: it belongs to nobody.
			l.Poke("a", table+12*8, 8, data|6)
		}
		if err := img.Resize(t.Context(), large, driver.ResizeOptions{}); err != nil {
			t.Fatal(err)
		}
		l.Want(img, 4*mib, fill(2))
		l.Want(img, 12*mib, fill(0))
		l.Write(img, large-mib, fill(3))
		l.Close(img)
		img = l.Open("a")
		if img.Size() != large {
			t.Errorf("size %d", img.Size())
		}
		l.Want(img, 0, fill(1))
		l.Want(img, large-mib, fill(3))
		l.Want(img, large-2*mib, fill(0))
		if kind == "fixed" {
			for off := int64(0); off < large; off += mib {
				if st, err := img.Status(t.Context(), off, 1, nil); err != nil || !st.HasOffset {
					t.Fatalf("at %d: %+v, %v", off, st, err)
				}
			}
		}
		if err := img.Resize(t.Context(), mib/2, driver.ResizeOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := img.Resize(t.Context(), size, driver.ResizeOptions{}); err != nil {
			t.Fatal(err)
		}
		l.Want(img, mib/2, make([]byte, mib))
		l.Want(img, 4*mib, fill(0))
		l.Close(img)
		if res, lines := l.Check("a", driver.CheckFix{}); res.Corruptions != 0 {
			t.Errorf("%+v %q", res, lines)
		}
	}
}

// TestResizeShortFile: in files of QEMU that are fixed, the last block ends where the disk does.
func TestResizeShortFile(t *testing.T) {
	l := newWorld(t, opts.Dict{"subformat": "fixed"})
	img := l.Open("a")
	short := int64(size - mib/2)
	if err := img.Resize(t.Context(), short, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	l.Close(img)
	if err := l.Mem.Disk("a").Resize(t.Context(), data+short, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	img = l.Open("a")
	if err := img.Resize(t.Context(), size, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := img.Discard(t.Context(), size-mib, mib); err != nil {
		t.Error(err)
	}
	l.Want(img, size-mib/2, make([]byte, mib/2))
	l.Close(img)
	if res, lines := l.Check("a", driver.CheckFix{}); res.Corruptions != 0 {
		t.Errorf("%+v %q", res, lines)
	}
}

// TestFixed: all blocks of a fixed disk have their room from the start, and none is added.
func TestFixed(t *testing.T) {
	l := newWorld(t, opts.Dict{"subformat": "fixed"})
	if got := l.Mem.Disk("a").Size(); got != data+size {
		t.Errorf("the file has %d bytes", got)
	}
	if e := l.Peek("a", table, 8); e != data|6 {
		t.Errorf("the first entry is %#x", e)
	}
}

// TestHugeDisk: the table of a disk of 64 TiB is not held in memory.
func TestHugeDisk(t *testing.T) {
	l := world{drivertest.NewLab(t, vhdx.New(), le)}
	l.Create("a", 64<<40, opts.Dict{"block_size": "1M", "block_state_zero": "off"})
	img, err := block.Open(t.Context(), l.Reg, block.Source{Filename: "mem:a", Format: "vhdx"},
		block.OpenOptions{Gate: driver.AllowAll, Budget: &driver.Budget{MaxMemory: 8 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	l.Want(img, 64<<40-mib, fill(0))
	l.Close(img)
}
