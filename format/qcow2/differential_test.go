package qcow2_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/qapi"
)

// TestReadOriginalImages reads images that QEMU made, in every
// combination of features that it accepts.
func TestReadOriginalImages(t *testing.T) {
	t.Parallel()
	testkit.NoRace(t, "one goroutine works alone")
	testkit.Tool(t, "qemu-io")
	const size = 1<<20 + 512
	src := filepath.Join(t.TempDir(), "src.raw")
	content := make([]byte, size)
	testkit.FillDisk(testkit.Rand(3), content)
	if err := os.WriteFile(src, content, 0o644); err != nil {
		t.Fatal(err)
	}
	try := func(name string, compress bool, options ...string) {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.qcow2")
			args := []string{"convert", "-f", "raw", "-O", "qcow2", "-m", "1"}
			if compress {
				args = append(args, "-c")
			}
			for _, o := range options {
				args = append(args, "-o", o)
			}
			testkit.Run(t, "qemu-img", append(args, src, path)...)
			img := openImage(t, path, false)
			defer closeImage(t, img)
			if got := readAll(t, img); !bytes.Equal(got, content) {
				t.Fatal("content differs")
			}
			sameMap(t, path, img)
		})
	}
	for bits := 9; bits <= 21; bits++ {
		if !testkit.Sample(bits, 4) {
			continue
		}
		for _, o := range []string{"compat=0.10", "compat=1.1", "extended_l2=on"} {
			if o == "extended_l2=on" && bits < 14 {
				continue
			}
			for _, compress := range []bool{false, true} {
				try(fmt.Sprintf("cluster=%d/%s/compress=%v", 1<<bits, o, compress), compress, fmt.Sprintf("cluster_size=%d", 1<<bits), o)
			}
		}
		try(fmt.Sprintf("cluster=%d/zstd", 1<<bits), true, fmt.Sprintf("cluster_size=%d", 1<<bits), "compression_type=zstd")
	}
	for _, bits := range []int{1, 2, 4, 8, 16, 32, 64} {
		try(fmt.Sprintf("refcount=%d", bits), bits > 1, fmt.Sprintf("refcount_bits=%d", bits), "cluster_size=4k")
	}
	for _, mode := range []string{"metadata", "falloc", "full"} {
		try("preallocation="+mode, false, "preallocation="+mode)
		try("preallocation="+mode+"/extended", false, "preallocation="+mode, "extended_l2=on")
	}
	data := filepath.Join(t.TempDir(), "data.raw")
	try("data file", false, "data_file="+data)
	try("data file raw", false, "data_file="+data, "data_file_raw=on")
}

// sameMap compares the block status with that of QEMU.
func sameMap(t *testing.T, path string, img *block.Image) {
	t.Helper()
	var want []qapi.MapEntry
	if err := json.Unmarshal([]byte(testkit.Run(t, "qemu-img", "map", "--output=json", "-f", "qcow2", path)), &want); err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		for off, end := w.Start, w.Start+w.Length; off < end; {
			x, err := img.Tree().Node().(driver.Format).Map(context.Background(), off, end-off)
			if err != nil {
				t.Fatal(err)
			}
			compressed := x.Kind == driver.ExtentEncoded
			zero := x.Kind == driver.ExtentZero || x.Kind == driver.ExtentUnallocated
			if compressed != w.Compressed || zero && !w.Zero {
				t.Fatalf("at %d: %+v, QEMU has %+v", off, x, w)
			}
			if w.Offset != nil && (!x.HasOffset || x.HostOffset != *w.Offset+off-w.Start) {
				t.Fatalf("at %d: %+v, QEMU has offset %d", off, x, *w.Offset+off-w.Start)
			}
			off += x.Length
		}
	}
}

// TestInfoEqualsOriginal compares the format specific information.
func TestInfoEqualsOriginal(t *testing.T) {
	for _, o := range [][]string{nil, {"compat=0.10"}, {"refcount_bits=1"}, {"lazy_refcounts=on"}, {"extended_l2=on"}, {"compression_type=zstd"},
		{"data_file=" + filepath.Join(t.TempDir(), "d.raw"), "data_file_raw=on"}} {
		t.Run(fmt.Sprint(o), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.qcow2")
			create(t, path, 64<<20, o...)
			if len(o) == 0 {
				testkit.Run(t, "qemu-img", "bitmap", "--add", path, "b0")
				testkit.Run(t, "qemu-img", "bitmap", "--add", "--disable", "-g", "128k", path, "b1")
				testkit.Run(t, "qemu-img", "snapshot", "-c", "first", path)
			}
			var want struct {
				Specific  json.RawMessage `json:"format-specific"`
				Snapshots json.RawMessage `json:"snapshots"`
			}
			if err := json.Unmarshal([]byte(testkit.Run(t, "qemu-img", "info", "--output=json", path)), &want); err != nil {
				t.Fatal(err)
			}
			img := openImage(t, path, false)
			defer closeImage(t, img)
			info, err := img.Info(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			sameJSON(t, info.Specific, want.Specific)
			if want.Snapshots != nil {
				list, _, err := img.Snapshots().List(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				sameJSON(t, list, want.Snapshots)
			}
		})
	}
}

func sameJSON(t *testing.T, got any, want []byte) {
	t.Helper()
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var x, y any
	if json.Unmarshal(b, &x) != nil || json.Unmarshal(want, &y) != nil {
		t.Fatalf("not JSON: %s %s", b, want)
	}
	bx, _ := json.Marshal(x)
	by, _ := json.Marshal(y)
	if !bytes.Equal(bx, by) {
		t.Fatalf("got  %s\nwant %s", bx, by)
	}
}

// TestEncryptedInfo looks at encrypted images without a key, which is all that can be done. Both look
// at images of ours: QEMU takes seconds to make one with LUKS. test/differential has some of QEMU.
func TestEncryptedInfo(t *testing.T) {
	t.Parallel()
	testkit.NoRace(t, "one caller")
	for _, c := range []struct {
		format string
		o      opts.Dict
	}{
		{"luks", nil},
		{"luks", opts.Dict{"encrypt.cipher-alg": "aes-128", "encrypt.cipher-mode": "cbc", "encrypt.ivgen-alg": "essiv", "encrypt.ivgen-hash-alg": "sha256"}},
		{"aes", nil},
	} {
		path := filepath.Join(t.TempDir(), "a.qcow2")
		createEncrypted(t, path, c.format, 1<<20, c.o)
		var want struct {
			Specific json.RawMessage `json:"format-specific"`
		}
		if err := json.Unmarshal([]byte(testkit.Run(t, "qemu-img", "info", "--output=json", path)), &want); err != nil {
			t.Fatal(err)
		}
		opt := openOpts(false)
		opt.Use.NoIO = true
		img, err := block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2"}, opt)
		if err != nil {
			t.Fatal(err)
		}
		info, err := img.Info(context.Background())
		if err != nil || !img.Traits().Encrypted {
			t.Fatalf("%+v %v", info, err)
		}
		sameJSON(t, info.Specific, want.Specific)
		closeImage(t, img)
		_, err = block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2"}, openOpts(false))
		if err == nil || !strings.Contains(err.Error(), "parameter 'encrypt.key-secret' is required for cipher") {
			t.Fatalf("opened an encrypted image without a key: %v", err)
		}
	}
}

// TestSnapshots writes to an image with internal snapshots and reads both states.
func TestSnapshots(t *testing.T) {
	t.Parallel()
	testkit.NoRace(t, "TestSnapshotsWhileWriting has several callers")
	for _, o := range [][]string{{"cluster_size=4k"}, {"compat=0.10"}, {"extended_l2=on"}, {"refcount_bits=8", "cluster_size=512"}} {
		t.Run(fmt.Sprint(o), func(t *testing.T) {
			dir := t.TempDir()
			path, m := makeVariant(t, dir, 4<<20, o)
			r := testkit.Rand(11)
			change := func() {
				img := openImage(t, path, true)
				for range 40 {
					step(t, r, img, m, o[0] != "compat=0.10")
				}
				closeImage(t, img)
				checkClean(t, path)
			}
			change()
			states := []*testkit.Model{m.Clone()}
			testkit.Run(t, "qemu-img", "snapshot", "-c", "one", path)
			change()
			states = append(states, m.Clone())
			testkit.Run(t, "qemu-img", "snapshot", "-c", "two", path)
			change()
			if d := m.Diff(original(t, path), 0); d != "" {
				t.Fatal(d)
			}
			for i, name := range []string{"one", "2"} {
				opt := openOpts(false)
				opt.Snapshot = name
				img, err := block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2"}, opt)
				if err != nil {
					t.Fatal(err)
				}
				if d := states[i].Diff(readAll(t, img), 0); d != "" {
					t.Fatalf("snapshot %s: %s", name, d)
				}
				closeImage(t, img)
			}
			testkit.Run(t, "qemu-img", "snapshot", "-d", "one", path)
			change()
			testkit.Run(t, "qemu-img", "snapshot", "-a", "two", path)
			checkClean(t, path)
			img := openImage(t, path, false)
			defer closeImage(t, img)
			if d := states[1].Diff(readAll(t, img), 0); d != "" {
				t.Fatal(d)
			}
		})
	}
}
