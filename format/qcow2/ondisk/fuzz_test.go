package ondisk

import (
	"bytes"
	"reflect"
	"testing"
)

// FuzzHeader decodes a first cluster: what decodes encodes to something that
// decodes to the same.
func FuzzHeader(f *testing.F) {
	h := &Header{Version: 3, ClusterBits: 16, Size: 1 << 30, RefcountOrder: 4, HeaderLength: HeaderSizeFull}
	ext := AppendExtension(nil, Extension{ExtBackingFormat, []byte("qcow2")})
	ext = AppendExtension(ext, Extension{ExtFeatureNames, AppendFeatureNames(nil, []FeatureName{{FeatureIncompatible, 0, "dirty bit"}})})
	f.Add(append(h.Append(nil), ext...))
	h.Version, h.BackingFileOffset, h.BackingFileSize = 2, 100, 8
	f.Add(append(h.Append(nil), ext...))
	h.Version, h.Extra = 3, []byte("unknown fields..")
	f.Add(h.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := DecodeHeader(b)
		if err != nil {
			return
		}
		again, err := DecodeHeader(h.Append(nil))
		if err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		// The length is that of the encoding, whatever it was.
		h.HeaderLength, again.HeaderLength = 0, 0
		if h.Version > 2 && len(h.Extra) == 0 {
			h.Extra, again.Extra = nil, nil
		}
		if !reflect.DeepEqual(h, again) {
			t.Fatalf("%+v became %+v", h, again)
		}
		start := min(len(b), HeaderSizeV2)
		exts, err := DecodeExtensions(b[start:])
		if err != nil {
			return
		}
		var enc []byte
		for _, e := range exts {
			enc = AppendExtension(enc, e)
			switch e.Type {
			case ExtFeatureNames:
				DecodeFeatureNames(e.Data)
			case ExtBitmaps:
				DecodeBitmapsExtension(e.Data)
			}
		}
		back, err := DecodeExtensions(enc)
		if err != nil || len(back) != len(exts) {
			t.Fatalf("%d extensions became %d: %v", len(exts), len(back), err)
		}
		for i := range back {
			if back[i].Type != exts[i].Type || !bytes.Equal(back[i].Data, exts[i].Data) {
				t.Fatalf("extension %d changed", i)
			}
		}
	})
}

// FuzzTables decodes entries of L2 tables, refcount blocks and the snapshot
// table.
func FuzzTables(f *testing.F) {
	f.Add(uint64(FlagCompressed|1<<61|12345), uint8(16), uint8(4), make([]byte, 64))
	f.Add(EncodeCompressed(1<<40+7, 4000, 12), uint8(12), uint8(0), bytes.Repeat([]byte{0xff}, 120))
	f.Fuzz(func(t *testing.T, desc uint64, bits, order uint8, b []byte) {
		clusterBits := MinClusterBits + uint32(bits)%(MaxClusterBits-MinClusterBits+1)
		c := DecodeCompressed(desc, clusterBits)
		if c.Offset < 0 || c.Size <= 0 || c.Size > 2<<clusterBits {
			t.Fatalf("descriptor %#x with cluster bits %d: %+v", desc, clusterBits, c)
		}
		if n := min(c.Size, 1<<clusterBits); c.Offset+n <= MaxCompressedOffset(clusterBits) {
			d := DecodeCompressed(EncodeCompressed(c.Offset, n, clusterBits), clusterBits)
			if d.Offset != c.Offset || d.Size < n || d.Size >= n+CompressedSector {
				t.Fatalf("%d bytes at %d became %+v", n, c.Offset, d)
			}
		}
		o := uint32(order) % 7
		if entries := len(b) * 8 >> o; entries > 0 {
			i := int(desc % uint64(entries))
			p := bytes.Clone(b)
			v := desc & MaxRefcount(o)
			SetRefcount(p, i, o, v)
			if got := GetRefcount(p, i, o); got != v {
				t.Fatalf("refcount %d of width %d: stored %d, got %d", i, 1<<o, v, got)
			}
			SetRefcount(p, i, o, GetRefcount(b, i, o))
			if !bytes.Equal(p, b) {
				t.Fatal("a neighbouring refcount changed")
			}
		}
		if s, n, err := DecodeSnapshot(b); err == nil && (n <= 0 || n > len(b) || len(s.ID)+len(s.Name) > n) {
			t.Fatalf("snapshot entry of %d bytes in %d: %+v", n, len(b), s)
		}
	})
}
