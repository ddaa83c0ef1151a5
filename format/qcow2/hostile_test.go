package qcow2

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

// sparseFile is a Storage in memory of which only written pages take room.
type sparseFile struct {
	diskFile
	mu    sync.RWMutex
	size  int64
	pages map[int64]*[sparsePage]byte
}

const sparsePage = 4096

// maxSparse is where writes end with an error, as on a real file system.
const maxSparse = 1 << 44

func newSparse() *sparseFile { return &sparseFile{pages: map[int64]*[sparsePage]byte{}} }

func (f *sparseFile) clone() *sparseFile {
	c := newSparse()
	c.size = f.size
	for k, p := range f.pages {
		q := *p
		c.pages[k] = &q
	}
	return c
}
func (f *sparseFile) Size() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.size
}
func (f *sparseFile) ReadAt(_ context.Context, b []byte, off int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	n := int(max(0, min(int64(len(b)), f.size-off)))
	for i := 0; i < n; {
		in := (off + int64(i)) % sparsePage
		k := min(n-i, int(sparsePage-in))
		if p := f.pages[(off+int64(i))/sparsePage]; p != nil {
			copy(b[i:i+k], p[in:])
		} else {
			clear(b[i : i+k])
		}
		i += k
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
func (f *sparseFile) WriteAt(_ context.Context, b []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off < 0 || off+int64(len(b)) > maxSparse {
		return 0, errors.New("File too large")
	}
	f.size = max(f.size, off+int64(len(b)))
	for i := 0; i < len(b); {
		in := (off + int64(i)) % sparsePage
		k := min(len(b)-i, int(sparsePage-in))
		p := f.pages[(off+int64(i))/sparsePage]
		if p == nil {
			p = new([sparsePage]byte)
			f.pages[(off+int64(i))/sparsePage] = p
		}
		copy(p[in:], b[i:i+k])
		i += k
	}
	return len(b), nil
}
func (f *sparseFile) Resize(_ context.Context, size int64, _ driver.ResizeOptions) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if size > maxSparse {
		return errors.New("File too large")
	}
	for k := range f.pages {
		if k*sparsePage >= size {
			delete(f.pages, k)
		}
	}
	f.size = size
	return nil
}
func (f *sparseFile) Map(_ context.Context, off, n int64) (driver.Extent, error) {
	if off >= f.Size() {
		return driver.Extent{}, nil
	}
	return driver.Extent{Kind: driver.ExtentData, Length: min(n, f.Size()-off), HostOffset: off, HasOffset: true}, nil
}

func (f *sparseFile) put64(off int64, v uint64) {
	f.WriteAt(context.Background(), binary.BigEndian.AppendUint64(nil, v), off)
}
func (f *sparseFile) put32(off int64, v uint32) {
	f.WriteAt(context.Background(), binary.BigEndian.AppendUint32(nil, v), off)
}
func (f *sparseFile) get64(off int64) uint64 {
	b := make([]byte, 8)
	f.ReadAt(context.Background(), b, off)
	return binary.BigEndian.Uint64(b)
}

// Places in the image that hostileImages starts from: 64 MiB, clusters of 4
// KiB, all metadata preallocated.
const (
	hostileCluster = 4096
	hostileSize    = 64 << 20
)

func hostileBase(t testing.TB, options string) *sparseFile {
	t.Helper()
	f := newSparse()
	d := opts.Dict{}
	if err := d.ParseList("cluster_size=4k,preallocation=metadata,"+options, ""); err != nil {
		t.Fatal(err)
	}
	if err := new(Driver).Create(context.Background(), &driver.CreateRequest{Size: hostileSize, Options: d, File: f, Env: testEnv()}); err != nil {
		t.Fatal(err)
	}
	return f
}

type hostile struct {
	name    string
	options string
	do      func(f *sparseFile)
}

func l1Of(f *sparseFile) int64          { return int64(f.get64(40)) }
func l2Of(f *sparseFile, i int64) int64 { return int64(f.get64(l1Of(f)+i*8) & ondisk.OffsetMask) }
func reftableOf(f *sparseFile) int64    { return int64(f.get64(48)) }
func every(n int64, fn func(i int64)) {
	for i := range n {
		fn(i)
	}
}
func field32(off int64, v uint32) func(f *sparseFile) {
	return func(f *sparseFile) { f.put32(off, v) }
}
func field64(off int64, v uint64) func(f *sparseFile) {
	return func(f *sparseFile) { f.put64(off, v) }
}

// snapshotTableAt puts n copies of a snapshot table entry at the end of f.
func addSnapshots(f *sparseFile, n uint32, l1Offset uint64, l1Size, extra uint32, names uint16) {
	at := tableio.AlignUp(f.Size(), hostileCluster)
	f.put32(60, n)
	f.put64(64, uint64(at))
	for range min(n, 70000) {
		b := binary.BigEndian.AppendUint64(nil, l1Offset)
		b = binary.BigEndian.AppendUint32(b, l1Size)
		b = binary.BigEndian.AppendUint16(b, names)
		b = binary.BigEndian.AppendUint16(b, names)
		b = append(b, make([]byte, 20)...)
		b = binary.BigEndian.AppendUint32(b, extra)
		b = append(b, make([]byte, tableio.AlignUp(int64(min(extra, 100))+2*int64(names), 8))...)
		f.WriteAt(context.Background(), b, at)
		at += int64(len(b))
	}
}

var hostiles = []hostile{
	{"cluster bits 0", "", field32(20, 0)},
	{"cluster bits 8", "", field32(20, 8)},
	{"cluster bits 22", "", field32(20, 22)},
	{"cluster bits 63", "", field32(20, 63)},
	{"cluster bits 2^32-1", "", field32(20, 1<<32-1)},
	{"cluster bits 21 on a small layout", "", field32(20, 21)},
	{"cluster bits 9 on a small layout", "", field32(20, 9)},
	{"version 0", "", field32(4, 0)},
	{"version 2^32-1", "", field32(4, 1<<32-1)},
	{"refcount order 7", "", field32(96, 7)},
	{"refcount order 2^32-1", "", field32(96, 1<<32-1)},
	{"header length 0", "", field32(100, 0)},
	{"header length 2^32-1", "", field32(100, 1<<32-1)},
	{"header length a cluster", "", field32(100, hostileCluster)},
	{"size 2^64-1", "", field64(24, 1<<64-1)},
	{"size 2^63-512", "", field64(24, 1<<63-512)},
	{"size 2^56", "", field64(24, 1<<56)},
	{"size huge with a huge L1", "", func(f *sparseFile) { f.put64(24, 1<<42); f.put32(36, 4<<20) }},
	{"L1 2^32-1 entries", "", field32(36, 1<<32-1)},
	{"L1 4 Mi entries beyond the end", "", func(f *sparseFile) { f.put32(36, 4<<20); f.put64(40, 1<<40) }},
	{"L1 offset unaligned", "", field64(40, 12345)},
	{"L1 offset negative", "", field64(40, 1<<63)},
	{"L1 in the header", "", field64(40, 0)},
	{"L1 is the refcount table", "", func(f *sparseFile) { f.put64(40, f.get64(48)) }},
	{"L1 too small", "", field32(36, 1)},
	{"refcount table 2^32-1 clusters", "", field32(56, 1<<32-1)},
	{"refcount table 0 clusters", "", field32(56, 0)},
	{"refcount table 8 MiB beyond the end", "", func(f *sparseFile) { f.put64(48, 1<<40); f.put32(56, 2048) }},
	{"refcount table in the header", "", field64(48, 0)},
	{"refcount table offset near 2^63", "", field64(48, 1<<63-hostileCluster)},
	{"refcount blocks all the same", "", func(f *sparseFile) {
		every(512, func(i int64) { f.put64(reftableOf(f)+8*i, f.get64(reftableOf(f))) })
	}},
	{"refcount blocks far away", "", func(f *sparseFile) {
		every(512, func(i int64) { f.put64(reftableOf(f)+8*i, 1<<50+uint64(i)*hostileCluster) })
	}},
	{"refcount blocks negative", "", func(f *sparseFile) {
		every(512, func(i int64) { f.put64(reftableOf(f)+8*i, 1<<63+uint64(i)*hostileCluster) })
	}},
	{"backing name beyond the end", "", func(f *sparseFile) { f.put64(8, 4000); f.put32(16, 1023) }},
	{"backing name of 4 GiB", "", func(f *sparseFile) { f.put64(8, 200); f.put32(16, 1<<32-1) }},
	{"backing name at 2^63", "", func(f *sparseFile) { f.put64(8, 1<<63); f.put32(16, 10) }},
	{"extension of 4 GiB", "", func(f *sparseFile) { f.put32(112, ondisk.ExtFeatureNames); f.put32(116, 1<<32-1) }},
	{"extensions without end", "", func(f *sparseFile) {
		for off := int64(112); off+8 <= hostileCluster; off += 8 {
			f.put32(off, 0x12345678)
			f.put32(off+4, 0)
		}
	}},
	{"bitmaps extension, giant directory", "", func(f *sparseFile) {
		f.put64(88, ondisk.AutoclearBitmaps)
		f.put32(112, ondisk.ExtBitmaps)
		f.put32(116, 24)
		f.put32(120, 65535)
		f.put32(124, 0)
		f.put64(128, 65535*1024)
		f.put64(136, 1<<30)
		f.put64(144, 0)
	}},
	{"bitmaps extension, directory in the header", "", func(f *sparseFile) {
		f.put64(88, ondisk.AutoclearBitmaps)
		f.put32(112, ondisk.ExtBitmaps)
		f.put32(116, 24)
		f.put32(120, 1)
		f.put32(124, 0)
		f.put64(128, 64)
		f.put64(136, 0)
		f.put64(144, 0)
	}},
	{"crypto header far away", "", func(f *sparseFile) {
		f.put32(32, ondisk.CryptLUKS)
		f.put32(112, ondisk.ExtCrypto)
		f.put32(116, 16)
		f.put64(120, 1<<50)
		f.put64(128, 1<<62)
		f.put64(136, 0)
	}},
	{"encryption method 2^32-1", "", field32(32, 1<<32-1)},
	{"unknown features", "", field64(72, 1<<63|1<<20)},
	{"compression type 255", "", func(f *sparseFile) { f.put64(72, ondisk.IncompatCompression); f.put64(104, 255<<56) }},
	{"all flags", "", field64(72, ondisk.IncompatKnown)},
	{"snapshots 2^32-1", "", field32(60, 1<<32-1)},
	{"snapshot table beyond the end", "", func(f *sparseFile) { f.put32(60, 65536); f.put64(64, 1<<40) }},
	{"snapshot table in the L1 table", "", func(f *sparseFile) { f.put32(60, 100); f.put64(64, f.get64(40)) }},
	{"snapshot with giant extra data", "", func(f *sparseFile) { addSnapshots(f, 1, f.get64(40), 32, 1<<32-1, 10) }},
	{"snapshot with giant names", "", func(f *sparseFile) { addSnapshots(f, 1, f.get64(40), 32, 16, 65535) }},
	{"snapshot with giant L1", "", func(f *sparseFile) { addSnapshots(f, 1, f.get64(40), 1<<32-1, 16, 1) }},
	{"65536 snapshots with one L1", "", func(f *sparseFile) { addSnapshots(f, 65536, f.get64(40), 32, 16, 1) }},
	{"60000 snapshots with 32 MiB of L1", "", func(f *sparseFile) { addSnapshots(f, 60000, f.get64(40), 4<<20, 16, 1) }},
	{"snapshot L1 at 2^62", "", func(f *sparseFile) { addSnapshots(f, 3, 1<<62, 32, 16, 1) }},
	{"snapshot L1 overlapping", "", func(f *sparseFile) { addSnapshots(f, 2, f.get64(48), 100000, 16, 1) }},
	{"L1 entries all the same", "", func(f *sparseFile) {
		every(32, func(i int64) { f.put64(l1Of(f)+8*i, f.get64(l1Of(f))) })
	}},
	{"L1 of 4 Mi entries all the same", "", func(f *sparseFile) {
		at, e := tableio.AlignUp(f.Size(), hostileCluster), f.get64(l1Of(f))
		b := make([]byte, 0, 4<<20)
		for range 512 << 10 {
			b = binary.BigEndian.AppendUint64(b, e)
		}
		f.WriteAt(context.Background(), b, at)
		f.put64(40, uint64(at))
		f.put32(36, 512<<10)
	}},
	{"L1 entries point at the L1 table", "", func(f *sparseFile) {
		every(32, func(i int64) { f.put64(l1Of(f)+8*i, uint64(l1Of(f))|ondisk.FlagCopied) })
	}},
	{"L1 entries unaligned", "", func(f *sparseFile) {
		every(32, func(i int64) { f.put64(l1Of(f)+8*i, f.get64(l1Of(f)+8*i)+512) })
	}},
	{"L1 entries beyond the end", "", func(f *sparseFile) {
		every(32, func(i int64) { f.put64(l1Of(f)+8*i, uint64(1<<50+i*hostileCluster)) })
	}},
	{"L1 entries all ones", "", func(f *sparseFile) {
		every(32, func(i int64) { f.put64(l1Of(f)+8*i, 1<<64-1) })
	}},
	{"L2 all ones", "", func(f *sparseFile) {
		every(512, func(i int64) { f.put64(l2Of(f, 0)+8*i, 1<<64-1) })
	}},
	{"L2 points at the header", "", func(f *sparseFile) {
		every(512, func(i int64) { f.put64(l2Of(f, 0)+8*i, ondisk.FlagCopied) })
	}},
	{"L2 points at itself", "", func(f *sparseFile) {
		every(512, func(i int64) { f.put64(l2Of(f, 0)+8*i, uint64(l2Of(f, 0))|ondisk.FlagCopied) })
	}},
	{"L2 beyond the end", "", func(f *sparseFile) {
		every(512, func(i int64) { f.put64(l2Of(f, 0)+8*i, uint64(1<<55+i*hostileCluster)|ondisk.FlagCopied) })
	}},
	{"L2 unaligned", "", func(f *sparseFile) {
		every(512, func(i int64) { f.put64(l2Of(f, 0)+8*i, f.get64(l2Of(f, 0)+8*i)+1536) })
	}},
	{"compressed beyond the end", "", func(f *sparseFile) {
		every(512, func(i int64) { f.put64(l2Of(f, 0)+8*i, ondisk.FlagCompressed|1<<57|uint64(i)<<20) })
	}},
	{"compressed over the end", "", func(f *sparseFile) {
		every(512, func(i int64) { f.put64(l2Of(f, 0)+8*i, ondisk.FlagCompressed|15<<58|uint64(f.Size()-600)) })
	}},
	{"compressed header", "", func(f *sparseFile) {
		every(512, func(i int64) { f.put64(l2Of(f, 0)+8*i, ondisk.FlagCompressed|15<<58) })
	}},
	{"compressed bomb", "", func(f *sparseFile) {
		// A stored block after another, each empty: output never comes.
		at := f.Size()
		for i := range int64(8192 / 5) {
			f.WriteAt(context.Background(), []byte{0, 0, 0, 0xff, 0xff}, at+5*i)
		}
		every(512, func(i int64) { f.put64(l2Of(f, 0)+8*i, ondisk.EncodeCompressed(at, hostileCluster-1, 12)) })
	}},
	{"compressed zstd with a giant window", "compression_type=zstd", func(f *sparseFile) {
		at := f.Size()
		f.WriteAt(context.Background(), []byte{0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0xf8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0, 0, 0, 0}, at)
		f.put32(at+8188, 0)
		every(512, func(i int64) { f.put64(l2Of(f, 0)+8*i, ondisk.EncodeCompressed(at, hostileCluster-1, 12)) })
	}},
	{"truncated in the header", "", func(f *sparseFile) { f.Resize(context.Background(), 60, driver.ResizeOptions{}) }},
	{"truncated to the header", "", func(f *sparseFile) { f.Resize(context.Background(), 112, driver.ResizeOptions{}) }},
	{"truncated to a cluster", "", func(f *sparseFile) { f.Resize(context.Background(), hostileCluster, driver.ResizeOptions{}) }},
	{"empty", "", func(f *sparseFile) { f.Resize(context.Background(), 0, driver.ResizeOptions{}) }},
	{"enormous sparse file", "", func(f *sparseFile) { f.Resize(context.Background(), maxSparse, driver.ResizeOptions{}) }},
	{"references all over a sparse file", "", func(f *sparseFile) {
		every(8, func(i int64) {
			every(512, func(j int64) {
				f.put64(l2Of(f, i)+8*j, uint64(1+i*512+j)<<28|ondisk.FlagCopied)
			})
		})
		f.Resize(context.Background(), 1<<41, driver.ResizeOptions{})
	}},
	{"large sparse file", "", func(f *sparseFile) { f.Resize(context.Background(), 1<<40, driver.ResizeOptions{}) }},
}

// exercise does with an image what a program does that was given it. Errors are
// fine; what matters is that it ends, and what it costs. between is called between
// one use and the next.
func exercise(f *sparseFile, budget *driver.Budget, between func()) {
	ctx := context.Background()
	open := func(file *sparseFile, a driver.Access) *image {
		env := testEnv()
		env.Budget, env.Gate = budget, driver.DenyAll
		env.OpenChild = func(context.Context, driver.ChildRef) (driver.Storage, error) { return newSparse(), nil }
		n, err := new(Driver).Open(ctx, &driver.OpenRequest{File: file, Env: env, Access: a})
		if err != nil {
			return nil
		}
		return n.(*image)
	}
	if im := open(f, driver.Access{}); im != nil {
		im.Info(ctx)
		buf := make([]byte, 64<<10)
		for off, calls := int64(0), 0; off < im.Size() && calls < 20000; calls++ {
			e, err := im.Map(ctx, off, im.Size()-off)
			if err != nil {
				off += max(im.clusterSize, im.Size()/1000)
				continue
			}
			if e.Length <= 0 {
				panic("an extent without length")
			}
			if e.Kind == driver.ExtentEncoded {
				im.ReadEncoded(ctx, buf[:min(e.Length, int64(len(buf)))], off)
			}
			if e.HasOffset && e.HostOffset < 0 {
				panic("a negative host offset")
			}
			off += e.Length
		}
		im.Close(ctx)
	}
	between()
	if im := open(f, driver.Access{Check: true}); im != nil {
		im.Check(ctx, driver.CheckFix{}, nil, nil)
		im.Close(ctx)
	}
	between()
	if im := open(f.clone(), driver.Access{Check: true, Write: true}); im != nil {
		im.Check(ctx, driver.CheckFix{Leaks: true, Errors: true}, nil, nil)
		im.Close(ctx)
	}
}

func TestHostileImages(t *testing.T) {
	testkit.NoRace(t, "one caller")
	// What is measured shall be what is held, not what waits to be collected.
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	bases := map[string]*sparseFile{}
	for i, h := range hostiles {
		if !testkit.Sample(i, 3) {
			continue
		}
		t.Run(h.name, func(t *testing.T) {
			base := bases[h.options]
			if base == nil {
				base = hostileBase(t, h.options)
				bases[h.options] = base
			}
			f := base.clone()
			h.do(f)
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			peak := make(chan uint64)
			stop := make(chan struct{})
			go func() {
				var m runtime.MemStats
				high := uint64(0)
				for tick := time.NewTicker(5 * time.Millisecond); ; {
					select {
					case <-tick.C:
						runtime.ReadMemStats(&m)
						high = max(high, m.HeapAlloc)
					case <-stop:
						peak <- high
						return
					}
				}
			}()
			limit := 5 * time.Second // of all processors together
			if testkit.Race {
				limit *= 20
			}
			start := testkit.CPUTime()
			exercise(f, &driver.Budget{}, runtime.GC)
			spent := testkit.CPUTime() - start
			close(stop)
			high := <-peak
			runtime.ReadMemStats(&after)
			if spent > limit {
				t.Errorf("took %v", spent)
			}
			// The largest legal L1 table is 32 MiB; repair reads it anew.
			if high > before.HeapAlloc+64<<20 {
				t.Errorf("held %d MiB", (high-before.HeapAlloc)>>20)
			}
			t.Logf("%v, at most %d MiB, in all %d MiB", spent.Round(time.Millisecond), int64(max(high, before.HeapAlloc)-before.HeapAlloc)>>20, (after.TotalAlloc-before.TotalAlloc)>>20)
		})
	}
}
