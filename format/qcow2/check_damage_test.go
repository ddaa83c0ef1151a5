package qcow2

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// patient is an image file that is being damaged.
type patient struct {
	t  testing.TB
	f  *os.File
	h  *ondisk.Header
	cs int64
}

func openPatient(t testing.TB, path string) *patient {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, _ := f.ReadAt(b, 0)
	h, err := ondisk.DecodeHeader(b[:n])
	if err != nil {
		t.Fatal(err)
	}
	return &patient{t, f, h, h.ClusterSize()}
}

func (p *patient) get(off int64) uint64 {
	b := make([]byte, 8)
	if _, err := p.f.ReadAt(b, off); err != nil && err != io.EOF {
		p.t.Fatal(err)
	}
	return binary.BigEndian.Uint64(b)
}
func (p *patient) put(off int64, v uint64) { p.write(off, binary.BigEndian.AppendUint64(nil, v)) }
func (p *patient) put32(off int64, v uint32) {
	p.write(off, binary.BigEndian.AppendUint32(nil, v))
}
func (p *patient) write(off int64, b []byte) {
	if _, err := p.f.WriteAt(b, off); err != nil {
		p.t.Fatal(err)
	}
}
func (p *patient) l1(i int) int64 { return int64(p.h.L1TableOffset) + int64(i)*8 }
func (p *patient) l2(i int) int64 { return int64(p.get(p.l1(i)) & ondisk.OffsetMask) }
func (p *patient) l2e(i, j int) int64 {
	return p.l2(i) + int64(j*ondisk.L2EntrySize(p.h.ExtendedL2()))
}
func (p *patient) rt(i int) int64 { return int64(p.h.RefcountTableOffset) + int64(i)*8 }
func (p *patient) rb(i int) int64 { return int64(p.get(p.rt(i)) & ondisk.OffsetMask) }

// setRef changes the refcount of a cluster.
func (p *patient) setRef(cluster int64, n uint64) {
	per := p.cs * 8 >> p.h.RefcountOrder
	b := make([]byte, p.cs)
	off := p.rb(int(cluster / per))
	if _, err := p.f.ReadAt(b, off); err != nil && err != io.EOF {
		p.t.Fatal(err)
	}
	ondisk.SetRefcount(b, int(cluster%per), p.h.RefcountOrder, n)
	p.write(off, b)
}
func (p *patient) ref(cluster int64) uint64 {
	per := p.cs * 8 >> p.h.RefcountOrder
	b := make([]byte, p.cs)
	if _, err := p.f.ReadAt(b, p.rb(int(cluster/per))); err != nil && err != io.EOF {
		p.t.Fatal(err)
	}
	return ondisk.GetRefcount(b, int(cluster%per), p.h.RefcountOrder)
}
func (p *patient) cluster(off int64) int64 { return off / p.cs }
func (p *patient) size() int64 {
	st, err := p.f.Stat()
	if err != nil {
		p.t.Fatal(err)
	}
	return st.Size()
}
func (p *patient) clusters() int64 { return (p.size() + p.cs - 1) / p.cs }
func (p *patient) truncate(n int64) {
	if err := p.f.Truncate(n); err != nil {
		p.t.Fatal(err)
	}
}

// dataEntry finds the n-th standard entry with room in the active L2 tables.
func (p *patient) dataEntry(n int) int64 {
	size := ondisk.L2EntrySize(p.h.ExtendedL2())
	for i := range int(p.h.L1Size) {
		if p.l2(i) == 0 {
			continue
		}
		for j := range int(p.cs) / size {
			e := p.get(p.l2e(i, j))
			if e&ondisk.FlagCompressed == 0 && e&ondisk.OffsetMask != 0 {
				if n == 0 {
					return p.l2e(i, j)
				}
				n--
			}
		}
	}
	p.t.Fatal("no such entry")
	return 0
}

// compressedEntry finds the first compressed cluster.
func (p *patient) compressedEntry() int64 {
	for i := range int(p.h.L1Size) {
		if p.l2(i) == 0 {
			continue
		}
		for j := range int(p.cs) / ondisk.L2EntrySize(p.h.ExtendedL2()) {
			if e := p.get(p.l2e(i, j)); e&ondisk.FlagCompressed != 0 {
				return p.l2e(i, j)
			}
		}
	}
	p.t.Fatal("no compressed cluster")
	return 0
}

type damage struct {
	name string
	base string // which image
	do   func(p *patient)
	// better marks damage which QEMU does not repair, or only by giving
	// the image up, and images that it changes merely by opening them (bitmaps
	// are stored anew).
	better bool
	// beyond marks damage that cannot be repaired.
	beyond bool
	// selfView marks images whose guest sees metadata as data, and so sees
	// repairs.
	selfView bool
	// refused marks images that QEMU does not even open to check.
	refused bool
}

var damages = []damage{
	{name: "none", base: "plain"},
	{name: "none with snapshot", base: "snap"},
	{name: "none compressed", base: "comp"},
	{name: "none extended", base: "ext"},
	{name: "none bitmap", base: "bitmap", better: true},
	{name: "none version 2", base: "v2"},
	{name: "none data file", base: "dataf"},
	{name: "none narrow refcounts", base: "ref1"},
	{name: "leak at end", base: "plain", do: func(p *patient) {
		n := p.clusters()
		p.truncate((n + 3) * p.cs)
		p.setRef(n, 1)
		p.setRef(n+2, 3)
	}},
	{name: "leak inside", base: "plain", do: func(p *patient) { p.put(p.dataEntry(2), 0) }},
	{name: "refcount too high", base: "plain", do: func(p *patient) {
		p.setRef(p.cluster(int64(p.get(p.dataEntry(1))&ondisk.OffsetMask)), 2)
	}},
	{name: "refcount zero", base: "plain", do: func(p *patient) {
		p.setRef(p.cluster(int64(p.get(p.dataEntry(1))&ondisk.OffsetMask)), 0)
	}},
	{name: "refcounts zero everywhere", base: "plain", do: func(p *patient) { p.write(p.rb(0), make([]byte, p.cs)) }},
	{name: "two entries, one cluster", base: "plain", do: func(p *patient) { p.put(p.dataEntry(3), p.get(p.dataEntry(1))) }},
	{name: "two entries, refcount two", base: "plain", do: func(p *patient) {
		e := p.get(p.dataEntry(1))
		p.put(p.dataEntry(3), e)
		p.setRef(p.cluster(int64(e&ondisk.OffsetMask)), 2)
	}},
	{name: "copied flag missing", base: "plain", do: func(p *patient) {
		o := p.dataEntry(0)
		p.put(o, p.get(o)&^ondisk.FlagCopied)
		p.put(p.l1(0), p.get(p.l1(0))&^ondisk.FlagCopied)
	}},
	{name: "copied flag missing and leak", base: "plain", do: func(p *patient) {
		o := p.dataEntry(0)
		p.put(o, p.get(o)&^ondisk.FlagCopied)
		p.put(p.dataEntry(5), 0)
	}},
	{name: "copied flag wrong with snapshot", base: "snap", do: func(p *patient) {
		for i := range 4 {
			o := p.dataEntry(i)
			p.put(o, p.get(o)^ondisk.FlagCopied)
		}
	}},
	{name: "snapshot refcount low", base: "snap", do: func(p *patient) {
		for i := range 8 {
			if k := p.cluster(int64(p.get(p.dataEntry(i)) & ondisk.OffsetMask)); p.ref(k) == 2 {
				p.setRef(k, 1)
			}
		}
	}},
	{name: "refcount table entry cleared", base: "plain", do: func(p *patient) { p.put(p.rt(0), 0) }},
	{name: "refcount block unaligned", base: "plain", better: true, do: func(p *patient) { p.put(p.rt(0), uint64(p.rb(0)+512)) }},
	{name: "refcount table reserved bits", base: "plain", better: true, do: func(p *patient) { p.put(p.rt(0), uint64(p.rb(0)+3)) }},
	{name: "refcount block outside", base: "plain", do: func(p *patient) { p.put(p.rt(1), uint64(p.clusters()+20)*uint64(p.cs)) }},
	{name: "refcount block shared with L2", base: "plain", do: func(p *patient) { p.put(p.rt(0), uint64(p.l2(0))) }},
	{name: "refcount block is the header", base: "plain", do: func(p *patient) { p.put(p.rt(1), uint64(p.h.RefcountTableOffset)) }},
	{name: "refcount block twice", base: "plain", do: func(p *patient) { p.put(p.rt(1), p.get(p.rt(0))) }},
	{name: "L1 entry unaligned", base: "plain", do: func(p *patient) { p.put(p.l1(0), p.get(p.l1(0))+512) }},
	{name: "L1 entry reserved bits", base: "plain", do: func(p *patient) { p.put(p.l1(0), p.get(p.l1(0))|1<<60|4) }},
	{name: "L1 entry outside", base: "plain", do: func(p *patient) { p.put(p.l1(1), 1<<40|ondisk.FlagCopied) }},
	{name: "L1 entry only a flag", base: "plain", do: func(p *patient) { p.put(p.l1(3), ondisk.FlagCopied) }},
	{name: "L1 entries share a table", base: "plain", do: func(p *patient) { p.put(p.l1(1), p.get(p.l1(0))) }},
	{name: "L1 entry is the L1 table", base: "plain", better: true, beyond: true, do: func(p *patient) { p.put(p.l1(1), p.h.L1TableOffset|ondisk.FlagCopied) }},
	{name: "L1 entry is the header", base: "plain", do: func(p *patient) { p.put(p.l1(1), p.h.RefcountTableOffset|ondisk.FlagCopied) }},
	{name: "L2 entry unaligned", base: "plain", do: func(p *patient) { o := p.dataEntry(1); p.put(o, p.get(o)+512) }},
	{name: "L2 zero entry unaligned", base: "plain", do: func(p *patient) { o := p.dataEntry(1); p.put(o, p.get(o)+512|1) }},
	{name: "L2 entry reserved bits", base: "plain", do: func(p *patient) { o := p.dataEntry(1); p.put(o, p.get(o)|0x18) }},
	{name: "L2 entry outside", base: "plain", do: func(p *patient) { o := p.dataEntry(1); p.put(o, 1<<45|ondisk.FlagCopied) }},
	{name: "L2 entry just outside", base: "plain", do: func(p *patient) {
		p.put(p.dataEntry(1), uint64(p.clusters()*p.cs)|ondisk.FlagCopied)
	}},
	{name: "L2 entry is the header", base: "plain", do: func(p *patient) { p.put(p.dataEntry(1), uint64(p.h.RefcountTableOffset)|ondisk.FlagCopied) }},
	{name: "L2 entry is its table", base: "plain", selfView: true, do: func(p *patient) { p.put(p.dataEntry(1), uint64(p.l2(0))|ondisk.FlagCopied) }},
	{name: "compressed with copied flag", base: "comp", do: func(p *patient) { o := p.compressedEntry(); p.put(o, p.get(o)|ondisk.FlagCopied) }},
	{name: "compressed outside", base: "comp", do: func(p *patient) { p.put(p.compressedEntry(), ondisk.EncodeCompressed(1<<33, 100, p.h.ClusterBits)) }},
	{name: "compressed at a table", base: "comp", do: func(p *patient) { p.put(p.compressedEntry(), ondisk.EncodeCompressed(p.l2(0), 100, p.h.ClusterBits)) }},
	{name: "compressed refcount low", base: "comp", do: func(p *patient) {
		p.setRef(p.cluster(ondisk.DecodeCompressed(p.get(p.compressedEntry()), p.h.ClusterBits).Offset), 1)
	}},
	{name: "subclusters both ways", base: "ext", do: func(p *patient) { o := p.dataEntry(0); p.put(o+8, p.get(o+8)|1|1<<32) }},
	{name: "subclusters without room", base: "ext", do: func(p *patient) { p.put(p.dataEntry(0), 0) }},
	{name: "subclusters preallocated unaligned", base: "ext", do: func(p *patient) { o := p.dataEntry(0); p.put(o, p.get(o)+512); p.put(o+8, 5<<32) }},
	{name: "dirty bit", base: "plain", do: func(p *patient) { p.put(72, ondisk.IncompatDirty) }},
	{name: "corrupt bit", base: "plain", do: func(p *patient) { p.put(72, ondisk.IncompatCorrupt) }},
	{name: "dirty, corrupt and leaks", base: "plain", do: func(p *patient) {
		p.put(72, ondisk.IncompatCorrupt|ondisk.IncompatDirty)
		p.put(p.dataEntry(2), 0)
	}},
	{name: "truncated", base: "plain", do: func(p *patient) { p.truncate(p.size() / 2 / p.cs * p.cs) }},
	{name: "truncated within a cluster", base: "plain", do: func(p *patient) { p.truncate(p.size()/2/p.cs*p.cs + 700) }},
	{name: "snapshot L1 unaligned", base: "snap", do: func(p *patient) { o := int64(p.h.SnapshotsOffset); p.put(o, p.get(o)+512) }},
	{name: "snapshot L1 too large", base: "snap", do: func(p *patient) { p.put32(int64(p.h.SnapshotsOffset)+8, 0x500000) }},
	{name: "snapshot L1 outside", base: "snap", do: func(p *patient) { p.put(int64(p.h.SnapshotsOffset), 1<<40) }},
	{name: "snapshot table offset unaligned", base: "snap", beyond: true, do: func(p *patient) { p.put(64, p.h.SnapshotsOffset+8) }},
	{name: "bitmap table entry reserved", base: "bitmap", refused: true, better: true, beyond: true, do: func(p *patient) { p.put(p.bitmapTable(), p.get(p.bitmapTable())|2) }},
	{name: "bitmap refcount zero", base: "bitmap", better: true, do: func(p *patient) { p.setRef(p.cluster(p.bitmapTable()), 0) }},
	{name: "bitmap directory broken", base: "bitmap", refused: true, better: true, beyond: true, do: func(p *patient) { p.put32(p.bitmapDirectory()+20, 8) }},
	{name: "data file entry without copied flag", base: "dataf", do: func(p *patient) { o := p.dataEntry(1); p.put(o, p.get(o)&^ondisk.FlagCopied) }},
	{name: "narrow refcount overflow", base: "ref1", do: func(p *patient) { p.put(p.dataEntry(3), p.get(p.dataEntry(1))) }},
	{name: "wide leak", base: "ref64", do: func(p *patient) { p.setRef(p.cluster(p.l2(0)), 77) }},
	{name: "wide zero", base: "ref64", do: func(p *patient) { p.setRef(p.cluster(p.l2(0)), 0) }},
	{name: "none encrypted", base: "luks"},
	{name: "encrypted header leaks", base: "luks", do: func(p *patient) { p.setRef(5, 9) }},
	{name: "snapshot entry incomplete", base: "snap", do: func(p *patient) { p.shrinkSnapshot(0) }},
	{name: "snapshot entry half complete", base: "snap", do: func(p *patient) { p.shrinkSnapshot(8) }},
	{name: "snapshot with too much extra data", base: "snap", do: func(p *patient) { p.shrinkSnapshot(3000) }},
	{name: "snapshots, too many", base: "snap", better: true, beyond: true, do: func(p *patient) { p.put32(60, 70000) }},
	{name: "version 2 leak", base: "v2", do: func(p *patient) { p.put(p.dataEntry(2), 0) }},
}

// shrinkSnapshot makes a snapshot table of the first entry alone, with so many
// bytes of extra data.
func (p *patient) shrinkSnapshot(extra int) {
	off := int64(p.h.SnapshotsOffset)
	b := make([]byte, p.cs)
	if _, err := p.f.ReadAt(b, off); err != nil && err != io.EOF {
		p.t.Fatal(err)
	}
	s, _, err := ondisk.DecodeSnapshot(b)
	if err != nil {
		p.t.Fatal(err)
	}
	known := b[40:64]
	n := append([]byte(nil), b[:36]...)
	n = binary.BigEndian.AppendUint32(n, uint32(extra))
	n = append(n, append(append([]byte(nil), known...), make([]byte, 4000)...)[:extra]...)
	n = append(n, s.ID+s.Name...)
	p.write(off, append(n, make([]byte, int(p.cs)-len(n))...))
	p.put32(60, 1)
}

func (p *patient) bitmapDirectory() int64 {
	b := make([]byte, p.cs)
	p.f.ReadAt(b, 0)
	exts, err := ondisk.DecodeExtensions(b[p.h.HeaderLength:])
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range exts {
		if e.Type == ondisk.ExtBitmaps {
			x, _ := ondisk.DecodeBitmapsExtension(e.Data)
			return int64(x.DirectoryOffset)
		}
	}
	p.t.Fatal("no bitmaps")
	return 0
}
func (p *patient) bitmapTable() int64 { return int64(p.get(p.bitmapDirectory())) }

// damageBase makes images to be damaged, with QEMU, each when it is asked for first:
// QEMU takes seconds for the one with LUKS.
func damageBase(t testing.TB, dir string) func(name string) string {
	made := map[string]string{}
	return func(name string) string {
		path := filepath.Join(dir, name+".qcow2")
		if made[name] == "" {
			makeDamageBase(t, name, path)
			made[name] = path
		}
		return path
	}
}

// damageOptions are the options of images that are made by create and the same writes.
var damageOptions = map[string]string{
	"plain":  "cluster_size=4k",
	"v2":     "cluster_size=4k,compat=0.10",
	"ref1":   "cluster_size=4k,refcount_bits=1",
	"ref64":  "cluster_size=4k,refcount_bits=64",
	"ext":    "cluster_size=64k,extended_l2=on",
	"dataf":  "cluster_size=4k,data_file=",
	"snap":   "cluster_size=4k",
	"bitmap": "cluster_size=4k",
	"comp":   "cluster_size=4k",
}

func makeDamageBase(t testing.TB, name, path string) {
	t.Helper()
	if name == "luks" {
		mustTool(t, "qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=abc", "-o",
			"cluster_size=4k,encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", path, "2M")
		return
	}
	options := damageOptions[name]
	if name == "dataf" {
		options += filepath.Join(filepath.Dir(path), "data.raw")
	}
	mustTool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "9000k")
	mustTool(t, "qemu-io", "-c", "write -P 1 0 64k", "-c", "write -P 2 3M 10k", "-c", "write -P 3 5000k 100k", "-c", "write -z 200k 32k",
		"-c", "write -P 9 7M 4k", path)
	switch name {
	case "snap":
		mustTool(t, "qemu-img", "snapshot", "-c", "one", path)
		mustTool(t, "qemu-io", "-c", "write -P 7 8k 4k", "-c", "write -P 7 4M 8k", path)
		mustTool(t, "qemu-img", "snapshot", "-c", "two", path)
		mustTool(t, "qemu-io", "-c", "write -P 8 16k 4k", path)
	case "bitmap":
		mustTool(t, "qemu-img", "bitmap", "--add", "-g", "64k", path, "b0")
		mustTool(t, "qemu-img", "bitmap", "--add", "-g", "512", path, "b1")
		mustTool(t, "qemu-io", "-c", "write -P 1 0 64k", "-c", "write -P 4 8M 64k", path)
	case "comp":
		plain := path + ".plain"
		if err := os.Rename(path, plain); err != nil {
			t.Fatal(err)
		}
		mustTool(t, "qemu-img", "convert", "-c", "-O", "qcow2", "-o", options, plain, path)
		mustTool(t, "qemu-io", "-c", "write -P 5 1M 8k", path)
	}
}
