package qcow2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

func patch(t *testing.T, path string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// TestOpenErrors damages headers and compares what is said with QEMU.
func TestOpenErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		options []string
		off     int64
		val     []byte
		want    string
	}{
		{"magic", nil, 0, []byte("XFI"), "Image is not in qcow2 format"},
		{"version", nil, 4, u32(4), "Unsupported qcow2 version 4"},
		{"version 1", nil, 4, u32(1), "Unsupported qcow2 version 1"},
		{"cluster bits", nil, 20, u32(8), "Unsupported cluster size: 2^8"},
		{"cluster bits high", nil, 20, u32(22), "Unsupported cluster size: 2^22"},
		{"header short", nil, 100, u32(100), "qcow2 header too short"},
		{"header long", nil, 100, u32(1 << 20), "qcow2 header exceeds cluster size"},
		{"backing offset", nil, 8, u64(1 << 20), "Invalid backing file offset"},
		{"backing name", nil, 8, append(u64(512), u32(1024)...), "Backing file name too long"},
		{"unknown feature", nil, 72, u64(1 << 40), "Unsupported qcow2 feature(s): Unknown incompatible feature: 10000000000"},
		{"two unknown features", nil, 72, u64(1<<40 | 1<<5), "Unsupported qcow2 feature(s): Unknown incompatible feature: 10000000020"},
		{"refcount width", nil, 96, u32(7), "Reference count entry width too large; may not exceed 64 bits"},
		{"encryption", nil, 32, u32(3), "Unsupported encryption method 3"},
		{"no refcount table", nil, 56, u32(0), "Image does not contain a reference count table"},
		{"large refcount table", nil, 56, u32(1 << 20), "Reference count table too large"},
		{"refcount table place", nil, 48, u64(0x10001), "Reference count table offset invalid"},
		{"snapshots", nil, 60, u32(70000), "Snapshot table too large"},
		{"snapshot place", nil, 60, append(u32(1), u64(0x10001)...), "Snapshot table offset invalid"},
		{"large L1", nil, 36, u32(1 << 24), "Active L1 table too large"},
		{"L1 place", nil, 40, u64(0x30001), "Active L1 table offset invalid"},
		{"small L1", nil, 36, u32(0), "L1 table is too small"},
		{"compression bit", nil, 72, u64(8), "qcow2: Compression type incompatible feature bit must not be set"},
		{"compression type", nil, 104, []byte{1}, "qcow2: Compression type incompatible feature bit must be set"},
		{"compression type 7", nil, 104, []byte{7}, "qcow2: unknown compression type: 7"},
		{"extended", []string{"cluster_size=4k"}, 72, u64(16), "Unsupported subcluster size: 128"},
		{"data file", nil, 72, u64(4), "'data-file' is required for this image"},
		{"data file raw", nil, 88, u64(2), "data-file-raw requires a data file"},
		{"extension", nil, 116, u32(1 << 20), "Header extension too large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.qcow2")
			create(t, path, 1<<30, c.options...)
			patch(t, path, c.off, c.val)
			// The disk can be read without snapshots.
			snapshots := strings.HasPrefix(c.want, "Snapshot table")
			if snapshots {
				closeImage(t, openImage(t, path, false))
			}
			_, err := block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2"}, openOpts(snapshots))
			if err == nil || !strings.Contains(words.Text(err), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			_, errOut, code := testkit.Try(t, "qemu-io", "-r", "-f", "qcow2", "-c", "quit", path)
			if code == 0 || !strings.Contains(errOut, c.want) {
				t.Errorf("QEMU says %q, not %q", errOut, c.want)
			}
		})
	}
}

// TestOpenOptions tries the options of an open image.
func TestOpenOptions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.qcow2")
	create(t, path, 1<<30)
	for _, c := range []struct{ options, want string }{
		{"overlap-check=all,overlap-check.inactive-l2=off", ""},
		{"overlap-check=some", "Unsupported value 'some' for qcow2 option 'overlap-check'. Allowed are any of the following: none, constant, cached, all"},
		{"overlap-check=all,overlap-check.template=none", "Conflicting values for qcow2 options 'overlap-check' ('all') and 'overlap-check.template' ('none')"},
		{"cache-size=1M,l2-cache-size=512k,refcount-cache-size=512k", "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"},
		{"cache-size=1M,l2-cache-size=2M", "l2-cache-size may not exceed cache-size"},
		{"cache-size=1M,refcount-cache-size=2M", "refcount-cache-size may not exceed cache-size"},
		{"l2-cache-entry-size=1000", "L2 cache entry size must be a power of two between 512 and the cluster size (65536)"},
		{"l2-cache-entry-size=128k", "L2 cache entry size must be a power of two between 512 and the cluster size (65536)"},
		{"cache-clean-interval=4294967296", "Cache clean interval too big"},
		{"cache-clean-interval=1,pass-discard-other=on,pass-discard-request=off,pass-discard-snapshot=off,discard-no-unref=on,lazy-refcounts=on", ""},
		{"no-such=1", "no-such"},
	} {
		t.Run(c.options, func(t *testing.T) {
			d := opts.Dict{}
			if err := d.ParseList(c.options, ""); err != nil {
				t.Fatal(err)
			}
			img, err := block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2", Options: d}, openOpts(true))
			if err == nil {
				closeImage(t, img)
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(words.Text(err), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if strings.Contains(c.options, "no-such") {
				return
			}
			_, errOut, code := testkit.Try(t, "qemu-io", "-c", "quit", "--image-opts", "driver=qcow2,file.filename="+path+","+c.options)
			if (code == 0) != (c.want == "") || !strings.Contains(errOut, c.want) {
				t.Errorf("QEMU says %q, not %q", errOut, c.want)
			}
		})
	}
	checkClean(t, path)
}

// TestCorruptionIsMarked meets an L2 entry that cannot be right.
func TestCorruptionIsMarked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.qcow2")
	create(t, path, 1<<30)
	img := openImage(t, path, true)
	p := make([]byte, 256<<10)
	if _, err := img.WriteAt(context.Background(), p, 0); err != nil {
		t.Fatal(err)
	}
	closeImage(t, img)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ondisk.DecodeHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	l2 := binary.BigEndian.Uint64(b[h.L1TableOffset:]) & ondisk.OffsetMask
	patch(t, path, int64(l2)+8, u64(binary.BigEndian.Uint64(b[l2+8:])|0x200))
	img = openImage(t, path, true)
	if _, err := img.ReadAt(context.Background(), p, 0); !errors.Is(err, driver.ErrCorrupt) {
		t.Fatalf("reading: %v", err)
	}
	if _, err := img.ReadAt(context.Background(), p[:65536], 0); err != nil {
		t.Fatalf("reading what is well: %v", err)
	}
	if _, err := img.WriteAt(context.Background(), p[:512], 1<<20); !errors.Is(err, driver.ErrCorrupt) {
		t.Fatalf("writing after corruption was found: %v", err)
	}
	closeImage(t, img)
	if out := testkit.Run(t, "qemu-img", "info", path); !strings.Contains(out, "corrupt: true") {
		t.Fatalf("the image is not marked: %s", out)
	}
	_, err = block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2"}, openOpts(true))
	if err == nil || !strings.Contains(words.Text(err), "qcow2: Image is corrupt; cannot be opened read/write") {
		t.Fatal(err)
	}
	closeImage(t, openImage(t, path, false))
}

// TestMetadataIsNotOverwritten hands the allocator refcounts that are wrong.
func TestMetadataIsNotOverwritten(t *testing.T) {
	for _, cluster := range []int64{0, 1, 3, 4} { // header, refcount table, L1 table, L2 table
		path := filepath.Join(t.TempDir(), "a.qcow2")
		create(t, path, 1<<30)
		qemuIO(t, path, "write 0 64k")
		patch(t, path, 2<<16+cluster*2, []byte{0, 0})
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		img := openImage(t, path, true)
		p := make([]byte, 65536)
		testkit.Fill(testkit.Rand(1), p)
		if _, err := img.WriteAt(context.Background(), p, 1<<20); !errors.Is(err, driver.ErrCorrupt) {
			t.Fatalf("cluster %d: %v", cluster, err)
		}
		closeImage(t, img)
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before[cluster<<16+1024:(cluster+1)<<16], after[cluster<<16+1024:(cluster+1)<<16]) {
			t.Fatalf("cluster %d was overwritten", cluster)
		}
	}
}

// TestChangeBackingKeepsExtensions rewrites the header of an image that has an
// extension of an unknown type.
func TestChangeBackingKeepsExtensions(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.qcow2")
	create(t, path, 1<<20)
	create(t, filepath.Join(dir, "base"), 1<<20)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, _ := ondisk.DecodeHeader(b)
	exts, err := ondisk.DecodeExtensions(b[h.HeaderLength:65536])
	if err != nil {
		t.Fatal(err)
	}
	area := ondisk.AppendExtension(nil, ondisk.Extension{Type: 0x12345678, Data: []byte("keep me")})
	for _, e := range exts {
		area = ondisk.AppendExtension(area, e)
	}
	patch(t, path, int64(h.HeaderLength), append(area, make([]byte, 16)...))
	for _, ref := range []driver.BackingRef{{Filename: "base", Format: "qcow2"}, {Filename: "base"}, {}} {
		img, err := block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2"}, openOpts(true))
		if err != nil {
			t.Fatal(err)
		}
		if err := img.Tree().Node().(driver.BackingChanger).ChangeBacking(context.Background(), ref); err != nil {
			t.Fatal(err)
		}
		closeImage(t, img)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b[:65536], []byte("keep me")) {
			t.Fatal("the unknown extension is gone")
		}
		out := testkit.Run(t, "qemu-img", "info", path)
		if strings.Contains(out, "backing file: base") != (ref.Filename != "") || strings.Contains(out, "backing file format: qcow2") != (ref.Format != "") {
			t.Fatalf("after %+v: %s", ref, out)
		}
		if ref.Format == "qcow2" {
			checkClean(t, path)
		}
	}
}

// TestLongExtensions has the format of the backing file behind an extension of an unknown type, which ends
// around the end of what is read of the header at first.
func TestLongExtensions(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.qcow2")
	create(t, filepath.Join(dir, "base"), 1<<20)
	create(t, path, 1<<20, "backing_file=base", "backing_fmt=qcow2")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, _ := ondisk.DecodeHeader(b)
	const nameOffset = 60000
	patch(t, path, 8, binary.BigEndian.AppendUint64(nil, nameOffset))
	patch(t, path, nameOffset, []byte("base"))
	for _, end := range []int{4072, 4080, 4088, 4096, 4104, 8192, 40000} {
		unknown := make([]byte, end-int(h.HeaderLength)-ondisk.ExtensionHeaderSize)
		area := ondisk.AppendExtension(nil, ondisk.Extension{Type: 0x12345678, Data: unknown})
		area = ondisk.AppendExtension(area, ondisk.Extension{Type: ondisk.ExtBackingFormat, Data: []byte("qcow2")})
		patch(t, path, int64(h.HeaderLength), append(area, make([]byte, ondisk.ExtensionHeaderSize)...))
		img := openImage(t, path, false)
		state, err := img.State(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if b := state.Backing; b == nil || b.Filename != "base" || b.Format != "qcow2" {
			t.Errorf("behind %d bytes: the backing file is %+v", end, b)
		}
		closeImage(t, img)
	}
}

// TestDirtyImageIsRepaired opens an image with lazy refcounts that was not
// closed.
func TestDirtyImageIsRepaired(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.qcow2")
	create(t, path, 64<<20, "lazy_refcounts=on")
	img := openImage(t, path, true)
	p := make([]byte, 1<<20)
	testkit.Fill(testkit.Rand(1), p)
	if _, err := img.WriteAt(context.Background(), p, 3<<20); err != nil {
		t.Fatal(err)
	}
	if err := img.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	crashed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	closeImage(t, img)
	checkClean(t, path)
	left := filepath.Join(t.TempDir(), "b.qcow2")
	if err := os.WriteFile(left, crashed, 0o644); err != nil {
		t.Fatal(err)
	}
	img = openImage(t, left, false)
	if info, err := img.State(context.Background()); err != nil || !info.Dirty {
		t.Fatalf("not dirty: %+v %v", info, err)
	}
	got := make([]byte, len(p))
	if _, err := img.ReadAt(context.Background(), got, 3<<20); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("flushed data are lost: %v", err)
	}
	closeImage(t, img)
	closeImage(t, openImage(t, left, true))
	checkClean(t, left)
	img = openImage(t, left, true)
	defer closeImage(t, img)
	if info, err := img.State(context.Background()); err != nil || info.Dirty {
		t.Fatalf("still dirty: %+v %v", info, err)
	}
	if _, err := img.ReadAt(context.Background(), got, 3<<20); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("flushed data are lost: %v", err)
	}
}

// TestDataFileOption names the data file that the image names wrongly.
func TestDataFileOption(t *testing.T) {
	dir := t.TempDir()
	path, data := filepath.Join(dir, "a.qcow2"), filepath.Join(dir, "data")
	create(t, path, 1<<20, "data_file="+data)
	qemuIO(t, path, "write -P 7 64k 64k")
	if err := os.Rename(data, data+"2"); err != nil {
		t.Fatal(err)
	}
	if _, err := block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2"}, openOpts(false)); err == nil {
		t.Fatal("opened without its data file")
	}
	noIO := openOpts(false)
	noIO.Use.NoIO = true
	img, err := block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2"}, noIO)
	if err != nil {
		t.Fatalf("looking at metadata: %v", err)
	}
	closeImage(t, img)
	img = openImage(t, path, false, "data-file.filename="+data+"2")
	defer closeImage(t, img)
	p := make([]byte, 1)
	if _, err := img.ReadAt(context.Background(), p, 65536); err != nil || p[0] != 7 {
		t.Fatalf("read %v, %v", p, err)
	}
}

// TestFeatureNames refuses an unknown feature by the name that the image gives it.
func TestFeatureNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.qcow2")
	create(t, path, 1<<20)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	entry := bytes.Index(b, []byte("corrupt bit")) - 2
	if entry < 0 {
		t.Fatal("no feature name table")
	}
	patch(t, path, int64(entry)+1, append([]byte{50}, "time travel\x00"...))
	patch(t, path, 72, u64(1<<50|1<<51))
	const want = "Unsupported qcow2 feature(s): time travel, Unknown incompatible feature: 8000000000000"
	_, err = block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2"}, openOpts(false))
	if err == nil || !strings.Contains(words.Text(err), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	if _, errOut, _ := testkit.Try(t, "qemu-img", "info", "-f", "qcow2", path); !strings.Contains(errOut, want) {
		t.Errorf("QEMU says %q", errOut)
	}
}

// TestCheckWhileOpen checks an image in the middle of work: what waits to be
// freed is no leak, and postponed refcounts are no errors.
func TestCheckWhileOpen(t *testing.T) {
	for _, o := range [][]string{nil, {"lazy_refcounts=on"}} {
		path, m := makeVariant(t, t.TempDir(), 4<<20, o)
		img := openImage(t, path, true)
		r := testkit.Rand(3)
		for range 5 {
			for range 20 {
				step(t, r, img, m, true)
			}
			var lines []string
			res, err := img.Tree().Node().(driver.Checker).Check(context.Background(), driver.CheckFix{}, func(l string) { lines = append(lines, l) }, nil)
			if err != nil || res.Leaks+res.Corruptions+res.CheckErrors != 0 {
				t.Fatalf("%+v %v\n%s", res, err, strings.Join(lines, "\n"))
			}
		}
		if d := m.Diff(readAll(t, img), 0); d != "" {
			t.Fatal(d)
		}
		closeImage(t, img)
		checkClean(t, path)
	}
}
