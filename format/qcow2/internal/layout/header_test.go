package layout

import (
	"bytes"
	"testing"

	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

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
