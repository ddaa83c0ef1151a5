package qcow2

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// sameFile fails at the first byte that differs.
func sameFile(t *testing.T, ours, theirs string) {
	t.Helper()
	a, err := os.Open(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := os.Open(theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	sa, _ := a.Stat()
	sb, _ := b.Stat()
	if sa.Size() != sb.Size() {
		t.Errorf("sizes differ: ours %d, theirs %d", sa.Size(), sb.Size())
	}
	bufA, bufB := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); ; off += int64(len(bufA)) {
		off = min(nextData(a, off), nextData(b, off))
		n, errA := io.ReadFull(io.NewSectionReader(a, off, 1<<20), bufA)
		m, _ := io.ReadFull(io.NewSectionReader(b, off, 1<<20), bufB)
		if bytes.Equal(bufA[:n], bufB[:m]) {
			if errA != nil {
				return
			}
			continue
		}
		for i := range min(n, m) {
			if bufA[i] != bufB[i] {
				t.Fatalf("byte %#x: ours %#x, theirs %#x (sizes %d, %d)", off+int64(i), bufA[i], bufB[i], sa.Size(), sb.Size())
			}
		}
		return // of different size, which was said above
	}
}

// nextData returns where the next data at or behind off may be: holes in large
// files are not worth reading.
func nextData(f *os.File, off int64) int64 {
	const seekData = 3
	if runtime.GOOS != "linux" {
		return off
	}
	if next, err := f.Seek(off, seekData); err == nil {
		return next
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return off
	}
	return end
}

func TestCreateSameBytes(t *testing.T) {
	t.Parallel()
	testkit.NoRace(t, "one caller")
	needTool(t, "qemu-img")
	var cases []string
	add := func(size, options string) { cases = append(cases, size+" "+options) }
	for _, size := range []string{"0", "512", "1000", "1M", "100M", "1G", "10G", "4T"} {
		add(size, "")
		add(size, "compat=0.10")
	}
	for cs := 512; cs <= 2<<20; cs *= 2 {
		for _, pre := range []string{"off", "metadata", "falloc", "full"} {
			o := fmt.Sprintf("cluster_size=%d,preallocation=%s", cs, pre)
			add("5M", o)
			add("5000192", o+",compat=0.10")
			for _, bits := range []int{1, 2, 4, 8, 32, 64} {
				add("3M", fmt.Sprintf("%s,refcount_bits=%d", o, bits))
			}
			if cs >= 16384 {
				add("5M", o+",extended_l2=on")
			}
		}
		add("3G", fmt.Sprintf("cluster_size=%d", cs))
		add("3G", fmt.Sprintf("cluster_size=%d,refcount_bits=64", cs))
		add("30M", fmt.Sprintf("cluster_size=%d,refcount_bits=64,preallocation=metadata", cs))
	}
	add("12M", "cluster_size=512,preallocation=metadata")
	add("12M", "cluster_size=512,preallocation=falloc")
	add("8G", "cluster_size=512")
	add("2G", "cluster_size=512,refcount_bits=64")
	add("2500M", "preallocation=metadata")
	add("2500M", "preallocation=metadata,cluster_size=8k")
	add("100M", "preallocation=metadata,cluster_size=4k,refcount_bits=64")
	add("2500M", "preallocation=metadata,cluster_size=2M,refcount_bits=64")
	add("2500M", "preallocation=metadata,extended_l2=on")
	add("1M", "lazy_refcounts=on")
	add("1M", "lazy_refcounts=on,preallocation=metadata")
	add("1M", "compression_type=zstd,extended_l2=on")
	add("1M", "backing_file=b.raw,backing_fmt=raw")
	add("1M", "backing_file=b.raw,backing_fmt=raw,cluster_size=512")
	add("1M", "backing_file=b.raw,backing_fmt=raw,compat=v2")
	add("1M", "backing_file=b.raw,backing_fmt=raw,preallocation=metadata,extended_l2=on")
	add("1M", "backing_file="+strings.Repeat("x", 1023)+",backing_fmt=raw")
	for _, pre := range []string{"off", "metadata", "falloc", "full"} {
		add("9M", "data_file=d.raw,preallocation="+pre)
		add("9M", "data_file=d.raw,data_file_raw=on,preallocation="+pre)
	}
	add("5000192", "data_file=d.raw,data_file_raw=on,cluster_size=512")
	add("5000192", "data_file=d.raw,data_file_raw=on")
	add("5000192", "data_file=d.raw,preallocation=full")
	add("5000192", "preallocation=metadata,extended_l2=on,cluster_size=2M")
	add("5000192", "preallocation=full,extended_l2=on,cluster_size=2M")
	add("1G", "data_file=d.raw,data_file_raw=on,cluster_size=4k")
	dir := t.TempDir()
	for i, c := range cases {
		if !testkit.Sample(i, 9) {
			continue
		}
		size, options, _ := strings.Cut(c, " ")
		t.Run(c[:min(len(c), 100)], func(t *testing.T) {
			theirDir, ourDir := filepath.Join(dir, "t"), filepath.Join(dir, "o")
			for _, d := range []string{theirDir, ourDir} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(d)
			}
			theirs, ours := filepath.Join(theirDir, "i.qcow2"), filepath.Join(ourDir, "i.qcow2")
			args := []string{"create", "-q", "-u", "-f", "qcow2"}
			abs := func(dir string) string { return strings.ReplaceAll(options, "data_file=", "data_file="+dir+"/") }
			if options != "" {
				args = append(args, "-o", abs(theirDir))
			}
			mustTool(t, "qemu-img", append(args, theirs, size)...)
			// The data file's name has the same length in both directories.
			if err := createImage(t, ours, parseTestSize(t, size), abs(ourDir)); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(options, "data_file") {
				sameFile(t, filepath.Join(ourDir, "d.raw"), filepath.Join(theirDir, "d.raw"))
				patchName(t, ours, ourDir, theirDir)
			}
			sameFile(t, ours, theirs)
		})
	}
}

// patchName replaces a name in the header of an image by one of the same length.
func patchName(t *testing.T, path, from, to string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	n, _ := f.ReadAt(b, 0)
	if _, err := f.WriteAt(bytes.ReplaceAll(b[:n], []byte(from), []byte(to)), 0); err != nil {
		t.Fatal(err)
	}
}

func parseTestSize(t *testing.T, s string) int64 {
	t.Helper()
	shift := map[byte]uint{'k': 10, 'M': 20, 'G': 30, 'T': 40, 'P': 50, 'E': 60}[s[len(s)-1]]
	n, err := strconv.ParseInt(strings.TrimRight(s, "kMGTPE"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << shift
}

func TestCreateRefusals(t *testing.T) {
	needTool(t, "qemu-img")
	cases := []string{
		"1M compat=0.10,refcount_bits=8", "1M compat=0.10,lazy_refcounts=on", "1M compat=0.10,extended_l2=on",
		"1M compat=0.10,compression_type=zstd", "1M compat=0.10,data_file=d.raw", "1M compat=0.11",
		"1M extended_l2=on,cluster_size=8k", "1M cluster_size=256", "1M cluster_size=4M", "1M cluster_size=65537",
		"1M cluster_size=0", "1M refcount_bits=7", "1M refcount_bits=128", "1M refcount_bits=0",
		"1M preallocation=foo", "1M preallocation=metadata,backing_file=b.raw,backing_fmt=raw",
		"1M data_file_raw=on", "1M data_file_raw=on,data_file=d.raw,backing_file=b.raw,backing_fmt=raw",
		"1M backing_fmt=raw", "1M compression_type=lz4", "200G cluster_size=512", "64P ",
		"7E cluster_size=2M", "1M encrypt.format=foo", "1M encrypt.key-secret=foo",
		"1M backing_file=" + strings.Repeat("x", 1024) + ",backing_fmt=raw",
		"1M cluster_size=512,backing_file=" + strings.Repeat("x", 500) + ",backing_fmt=raw",
		"9223372036854774784 cluster_size=2M", "1M lazy_refcounts=maybe", "1M refcount_bits=x",
	}
	dir := t.TempDir()
	for _, c := range cases {
		size, options, _ := strings.Cut(c, " ")
		t.Run(c[:min(len(c), 80)], func(t *testing.T) {
			path := filepath.Join(dir, "i.qcow2")
			defer os.Remove(path)
			args := []string{"create", "-q", "-u", "-f", "qcow2"}
			if options != "" {
				args = append(args, "-o", strings.ReplaceAll(options, "data_file=", "data_file="+dir+"/"))
			}
			r := runTool(t, "qemu-img", append(args, path, size)...)
			if r.code == 0 {
				t.Fatal("QEMU accepts this")
			}
			os.Remove(path)
			err := createImage(t, path, parseTestSize(t, size), options)
			if err == nil {
				t.Fatal("accepted; QEMU says", r.stderr)
			}
			want := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(r.stderr), "qemu-img: "), path+": ")
			if words.Text(err) != want {
				t.Errorf("got  %q\nwant %q", words.Text(err), want)
			}
		})
	}
}
