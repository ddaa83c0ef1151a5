package qcow2

import (
	"bytes"
	"context"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/opts"
)

// smallImages are seeds: a few KiB each.
func smallImages(t testing.TB) [][]byte {
	var out [][]byte
	for _, o := range []string{"", "compat=0.10", "refcount_bits=1", "refcount_bits=64", "preallocation=metadata",
		"preallocation=full,refcount_bits=8", "cluster_size=16k,extended_l2=on,preallocation=metadata", "compression_type=zstd,lazy_refcounts=on"} {
		d := opts.Dict{"cluster_size": "512"}
		if err := d.ParseList(o, ""); err != nil {
			t.Fatal(err)
		}
		f := &memFile{}
		if err := new(Driver).Create(context.Background(), &driver.CreateRequest{Size: 8 << 10, Options: d, File: f, Env: testEnv()}); err != nil {
			t.Fatal(err)
		}
		out = append(out, f.b)
	}
	return out
}

// FuzzCheck looks for panics, endless loops and memory without bound in open,
// map, check and repair.
func FuzzCheck(f *testing.F) {
	for _, b := range smallImages(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		file := newSparse()
		file.WriteAt(context.Background(), b, 0)
		exercise(file, &driver.Budget{MaxMemory: 256 << 20}, func() {})
	})
}

// FuzzNewHeader checks that headers of new images decode to what was encoded.
func FuzzNewHeader(f *testing.F) {
	f.Add("base", "raw", "", uint8(16), uint64(1<<20))
	f.Add("", "", "data", uint8(9), uint64(0))
	f.Fuzz(func(t *testing.T, backing, format, dataFile string, bits uint8, size uint64) {
		if bits < ondisk.MinClusterBits || bits > ondisk.MaxClusterBits || len(backing)+len(format)+len(dataFile) > 1<<16 {
			return
		}
		h := &ondisk.Header{Version: 3, ClusterBits: uint32(bits), Size: size, RefcountOrder: 4}
		b, err := newHeader(h, backing, format, dataFile)
		if err != nil {
			return
		}
		got, err := ondisk.DecodeHeader(b)
		if err != nil || got.Size != size || int64(len(b)) > h.ClusterSize() {
			t.Fatalf("%v %+v", err, got)
		}
		if backing != "" && string(b[got.BackingFileOffset:][:got.BackingFileSize]) != backing {
			t.Fatal("another backing file name")
		}
		exts, err := ondisk.DecodeExtensions(b[got.HeaderLength:])
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range exts {
			if e.Type == ondisk.ExtDataFile && !bytes.Equal(e.Data, []byte(dataFile)) {
				t.Fatal("another data file name")
			}
		}
	})
}
