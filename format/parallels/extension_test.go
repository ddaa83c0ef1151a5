package parallels_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/parallels"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const (
	bitmapName = "00010203-0405-0607-0809-0a0b0c0d0e0f"
	closed     = 0x312e3276
	// extUnits is how many clusters the disk has whose bitmap takes more than two of its clusters: one of ones,
	// one of data, one of zeroes, and a part.
	extUnits = 3*cluster*8 + 16
)

// feature returns a dirty bitmap with one bit for each cluster, as the specification of QEMU's project has it.
func feature(change func(b []byte), l1 ...uint64) []byte {
	le := binary.LittleEndian
	b := le.AppendUint64(nil, 0x20385fae252cb34a)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint64(b, uint64(32+8*len(l1))) // data_size and 4 unused bytes
	b = le.AppendUint64(b, extUnits*cluster/512)
	for i := range 16 {
		b = append(b, byte(i))
	}
	b = le.AppendUint32(b, cluster/512)
	b = le.AppendUint32(b, uint32(len(l1)))
	for _, v := range l1 {
		b = le.AppendUint64(b, v)
	}
	if change != nil {
		change(b)
	}
	return b
}

// extended makes an image with an extension of the given features, in the last cluster but one; the last one is for a
// bitmap, of which features is told the sector.
func extended(t *testing.T, features func(data uint64) []byte, use uint32) *drivertest.Lab {
	t.Helper()
	le := binary.LittleEndian
	l := drivertest.NewLab(t, parallels.New(), le)
	l.Create("a", extUnits*cluster, opts.Dict{"cluster_size": "4096"})
	img := l.Open("a")
	l.Write(img, 0, fill(1))
	l.Write(img, 5*cluster, fill(2))
	l.Close(img)
	disk := l.Mem.Disk("a")
	at := disk.Size()
	ext := make([]byte, 2*cluster)
	le.PutUint64(ext, 0xab234cef23dcea87)
	copy(ext[24:], features(uint64(at+cluster)/512))
	sum := md5.Sum(ext[24:cluster])
	copy(ext[8:], sum[:])
	ext[cluster] = 0b1010
	ext[2*cluster-1] = 0x80
	if _, err := disk.WriteAt(t.Context(), ext, at); err != nil {
		t.Fatal(err)
	}
	l.Poke("a", 56, 8, uint64(at/512))
	l.Poke("a", inUse, 4, uint64(use))
	return l
}

func openRead(t *testing.T, l *drivertest.Lab) *block.Image {
	t.Helper()
	img, err := l.TryOpen("a", block.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close(context.Background()) })
	return img
}

// TestBitmaps reads a bitmap with clusters of ones, of data and of zeroes.
func TestBitmaps(t *testing.T) {
	l := extended(t, func(data uint64) []byte { return feature(nil, 1, data, 0, 1) }, closed)
	img := openRead(t, l)
	list, ok, err := img.Bitmaps().List(t.Context())
	want := driver.BitmapInfo{Name: bitmapName, Granularity: cluster, Size: extUnits * cluster, Enabled: true, Dirty: (cluster*8 + 3 + 16) * cluster}
	if err != nil || !ok || !slices.Equal(list, []driver.BitmapInfo{want}) {
		t.Fatalf("%+v %v %v, want %+v", list, ok, err, want)
	}
	type run struct{ from, n int64 }
	var runs []run
	for off := int64(0); off < img.Size(); {
		n, dirty, err := img.Bitmaps().Extent(t.Context(), bitmapName, off, img.Size()-off)
		if err != nil || n <= 0 {
			t.Fatalf("at %d: %d %v", off, n, err)
		}
		if dirty {
			runs = append(runs, run{off / cluster, n / cluster})
		}
		off += n
	}
	first := int64(cluster * 8)
	if want := []run{{0, first}, {first + 1, 1}, {first + 3, 1}, {2*first - 1, 1}, {3 * first, 16}}; !slices.Equal(runs, want) {
		t.Errorf("%v, want %v", runs, want)
	}
	if n, dirty, err := img.Bitmaps().Extent(t.Context(), bitmapName, first*cluster+100, 2*cluster); n != cluster-100 || dirty || err != nil {
		t.Errorf("within a cluster: %d %v %v", n, dirty, err)
	}
	if _, _, err := img.Bitmaps().Extent(t.Context(), "another", 0, 1); !errors.Is(err, driver.ErrNoBitmap) {
		t.Errorf("another bitmap: %v", err)
	}
	if res, lines := l.Check("a", driver.CheckFix{}); res.Corruptions+res.Leaks != 0 {
		t.Errorf("%+v %q", res, lines)
	}
}

// TestBitmapsOften: bits that are never the same as the one before take no reading each.
func TestBitmapsOften(t *testing.T) {
	l := extended(t, func(data uint64) []byte { return feature(nil, 1, data, 0, 1) }, closed)
	disk := l.Mem.Disk("a")
	if _, err := disk.WriteAt(t.Context(), bytes.Repeat([]byte{0x55}, cluster), disk.Size()-cluster); err != nil {
		t.Fatal(err)
	}
	reads := 0
	disk.SetHook(func(op mem.Op, _, _ int64) error {
		if op == mem.OpRead {
			reads++
		}
		return nil
	})
	list, _, err := openRead(t, l).Bitmaps().List(t.Context())
	if err != nil || list[0].Dirty != (cluster*8+cluster*4+16)*cluster {
		t.Errorf("%+v %v", list, err)
	}
	if reads > 20 {
		t.Errorf("%d reads", reads)
	}
}

// TestBitmapsStale: programs that do not know bitmaps leave another mark, and so do we after a write; what the bitmaps
// say is not used then.
func TestBitmapsStale(t *testing.T) {
	for _, change := range []string{"0", "in use", "written by us"} {
		mark := map[string]uint32{"0": 0, "in use": mark, "written by us": closed}[change]
		l := extended(t, func(data uint64) []byte { return feature(nil, 1, data, 0, 1) }, mark)
		if change == "written by us" {
			img := l.Open("a")
			if _, ok, _ := img.Bitmaps().List(t.Context()); ok {
				t.Error("an image that can be written has bitmaps")
			}
			l.Write(img, 0, fill(7))
			l.Write(img, 9*cluster, fill(8))
			l.Close(img)
		}
		img := openRead(t, l)
		list, _, err := img.Bitmaps().List(t.Context())
		if err != nil || len(list) != 1 || !list[0].Inconsistent || list[0].Enabled || list[0].Dirty != 0 {
			t.Errorf("%s: %+v %v", change, list, err)
		}
		if _, _, err := img.Bitmaps().Extent(t.Context(), bitmapName, 0, 1); !errors.Is(err, driver.ErrBitmaps) {
			t.Errorf("%s: %v", change, err)
		}
		l.Want(img, 5*cluster, fill(2))
	}
}

// TestBitmapsRefused: an extension that is not right has no bitmaps, and the disk can be read.
func TestBitmapsRefused(t *testing.T) {
	le := binary.LittleEndian
	good := func(data uint64) []byte { return feature(nil, 1, data, 0, 1) }
	with := func(change func(b []byte)) func(uint64) []byte {
		return func(data uint64) []byte { return feature(change, 1, data, 0, 1) }
	}
	for _, c := range []struct {
		name     string
		features func(uint64) []byte
		after    func(l *drivertest.Lab, ext int64)
		want     string
	}{
		{"magic", good, func(l *drivertest.Lab, ext int64) { l.Poke("a", ext, 8, 1) }, "magic: 0x1"},
		{"checksum", good, func(l *drivertest.Lab, ext int64) { l.Poke("a", ext+100, 8, 1) }, "checksum"},
		{"cut off", good, func(l *drivertest.Lab, ext int64) {
			_ = l.Mem.Disk("a").Resize(context.Background(), ext+cluster-1, driver.ResizeOptions{})
		}, "failed to read Format Extension cluster"},
		{"size", with(func(b []byte) { le.PutUint64(b[24:], 1) }), nil, "differs from disk size"},
		{"granularity 0", with(func(b []byte) { le.PutUint32(b[48:], 0) }), nil, "granularity"},
		{"granularity 3", with(func(b []byte) { le.PutUint32(b[48:], 3) }), nil, "granularity"},
		{"granularity of 4 GiB", with(func(b []byte) { le.PutUint32(b[48:], 1<<23) }), nil, "granularity"},
		{"another granularity", with(func(b []byte) { le.PutUint32(b[48:], 16) }), nil, "table size 4 does not correspond"},
		{"table", with(func(b []byte) { le.PutUint32(b[52:], 5) }), nil, "l1 table exceeds"},
		{"data size", with(func(b []byte) { le.PutUint32(b[16:], cluster) }), nil, "exceedes Format Extension cluster"},
		{"small", with(func(b []byte) { le.PutUint32(b[16:], 31) }), nil, "too small Bitmap Feature area"},
		{"no end", func(uint64) []byte {
			return slices.Repeat([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, cluster/24)
		}, nil, "can not read feature header"},
		{"behind the end", func(data uint64) []byte { return feature(nil, 1, data+1, 0, 1) }, nil, "behind the end of the file"},
		{"far behind the end", func(uint64) []byte { return feature(nil, 1, 1<<63, 0, 1) }, nil, "behind the end of the file"},
		{"twice", func(data uint64) []byte { return feature(nil, 1, data, data, 1) }, nil, "two clusters of bitmaps"},
		{"over each other", func(data uint64) []byte { return feature(nil, 1, data, data-7, 1) }, nil, "two clusters of bitmaps"},
	} {
		l := extended(t, c.features, closed)
		if c.after != nil {
			c.after(l, l.Mem.Disk("a").Size()-2*cluster)
		}
		img := openRead(t, l)
		if _, ok, err := img.Bitmaps().List(t.Context()); !ok || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v %v", c.name, ok, err)
		}
		if info, err := img.Info(t.Context()); err != nil || info.Specific != nil {
			t.Errorf("%s: info %+v %v", c.name, info, err)
		}
		l.Want(img, 5*cluster, fill(2))
	}
	// What is not known is passed over.
	l := extended(t, func(data uint64) []byte {
		other := feature(func(b []byte) { b[0]++; le.PutUint32(b[16:], 29) }) // and 3 bytes to the next multiple of 8
		return append(other, feature(nil, 1, data, 0, 1)...)
	}, closed)
	if list, _, err := openRead(t, l).Bitmaps().List(t.Context()); len(list) != 1 || err != nil {
		t.Errorf("behind another feature: %+v %v", list, err)
	}
}

// FuzzExtension reads features of any content.
func FuzzExtension(f *testing.F) {
	f.Add(feature(nil, 1, 0, 0, 1), uint32(closed))
	f.Fuzz(func(t *testing.T, b []byte, inUse uint32) {
		l := extended(t, func(uint64) []byte { return b }, inUse)
		img, err := l.TryOpen("a", block.OpenOptions{Budget: &driver.Budget{MaxTableBytes: 1 << 20}})
		if err != nil {
			return
		}
		defer img.Close(context.Background())
		list, _, err := img.Bitmaps().List(t.Context())
		if err != nil {
			return
		}
		for _, b := range list {
			n, _, err := img.Bitmaps().Extent(t.Context(), b.Name, 0, img.Size())
			if err == nil && (n <= 0 || n > img.Size()) {
				t.Errorf("%d bytes of %d", n, img.Size())
			}
		}
	})
}
