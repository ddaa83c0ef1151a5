package differential

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// dirtyRanges are the dirty parts of a disk in one bitmap, merged.
type dirtyRanges [][2]int64

func (d dirtyRanges) add(off, n int64) dirtyRanges {
	if l := len(d); l > 0 && d[l-1][1] == off {
		d[l-1][1] += n
		return d
	}
	return append(d, [2]int64{off, off + n})
}

// ourRanges reads a bitmap.
func ourRanges(t *testing.T, img *block.Image, name string) (d dirtyRanges) {
	t.Helper()
	for off := int64(0); off < img.Size(); {
		n, dirty, err := img.Bitmaps().Extent(t.Context(), name, off, img.Size()-off)
		if err != nil {
			t.Fatal(err)
		}
		if dirty {
			d = d.add(off, n)
		}
		off += n
	}
	return d
}

// describeBitmap writes what is known of a bitmap.
func describeBitmap(t *testing.T, out *strings.Builder, img *block.Image, b driver.BitmapInfo) {
	t.Helper()
	fmt.Fprintf(out, "%s: granularity %d, enabled %t, inconsistent %t", b.Name, b.Granularity, b.Enabled, b.Inconsistent)
	if !b.Inconsistent {
		fmt.Fprintf(out, ", %d bytes: %v", b.Dirty, ourRanges(t, img, b.Name))
	}
	out.WriteByte('\n')
}

// theirRanges lets QEMU serve a bitmap and asks what is dirty.
func theirRanges(t *testing.T, path, name string) (d dirtyRanges) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cowl-nbd-") // names of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	sock := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	// The server finds the socket open, so that nobody has to wait for it, and ends
	// when the first client goes.
	var errs strings.Builder
	cmd := exec.Command("sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec qemu-nbd -r -f qcow2 -B "$1" "$2"`, "sh", name, filepath.Base(path))
	cmd.Dir, cmd.ExtraFiles, cmd.Stderr = filepath.Dir(path), []*os.File{f}, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	out, mapErrs, code := testkit.Try(t, "qemu-img", "map", "--output=json", "--image-opts",
		"driver=nbd,server.type=unix,server.path="+sock+",x-dirty-bitmap=qemu:dirty-bitmap:"+name)
	if code != 0 {
		_ = cmd.Process.Kill()
	}
	err = cmd.Wait()
	if code != 0 || err != nil {
		t.Fatalf("bitmap %s: %v %s%s", name, err, errs.String(), mapErrs)
	}
	var list []struct {
		Start, Length int64
		Data          bool
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	for _, x := range list {
		if !x.Data { // dirty is told as unallocated
			d = d.add(x.Start, x.Length)
		}
	}
	return d
}

// sameBits compares all bitmaps of an image as we and QEMU read them.
func sameBits(t *testing.T, path string) {
	t.Helper()
	img := library(t, path, false)
	defer closeLibrary(t, img)
	list, _, err := img.Bitmaps().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range list {
		if b.Inconsistent {
			t.Errorf("bitmap %s is inconsistent", b.Name)
			continue
		}
		if got, want := fmt.Sprint(ourRanges(t, img, b.Name)), fmt.Sprint(theirRanges(t, path, b.Name)); got != want {
			t.Errorf("bitmap %s: we read %s\nthe original %s", b.Name, got, want)
		}
	}
}

// TestBitmapTurns lets QEMU and us change an image in turns, with bitmaps
// that record, and compares the bits after every turn.
func TestBitmapTurns(t *testing.T) {
	tools := needCLI(t)
	testkit.Tool(t, "qemu-nbd")
	kinds := []string{"cluster_size=65536", "cluster_size=512", "cluster_size=2M", "cluster_size=4096,extended_l2=off,refcount_bits=1",
		"cluster_size=16384,extended_l2=on", "data_file=ext.data,cluster_size=4096"}
	turns := 4
	if testing.Short() || testkit.Race {
		kinds, turns = kinds[:3], 2
	}
	for i, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := testkit.Rand(uint64(i))
			path := filepath.Join(dir, "a.qcow2")
			size := int64(8+r.IntN(3)*20) << 20
			must(t, dir, tools.img, "create", "-q", "-f", "qcow2", "-o", kind, "a.qcow2", fmt.Sprint(size))
			for n, g := range []int64{512, 4096, 65536, 1 << 20} {
				tool := tools.img
				if n%2 == 0 {
					tool = tools.ours
				}
				must(t, dir, tool, "bitmap", "--add", "-g", fmt.Sprint(g), "a.qcow2", fmt.Sprintf("b%d", n))
			}
			for range turns {
				for _, who := range []string{tools.img, tools.ours} {
					if who == tools.img {
						theirTurn(t, r, tools, dir, size)
					} else {
						ourTurn(t, r, path)
					}
					// Bitmaps change by command too.
					name, other := fmt.Sprintf("b%d", r.IntN(4)), fmt.Sprintf("b%d", r.IntN(4))
					switch r.IntN(8) {
					case 0:
						must(t, dir, who, "bitmap", "--clear", "a.qcow2", name)
					case 1:
						must(t, dir, who, "bitmap", "--disable", "--merge", other, "a.qcow2", name)
					case 2:
						must(t, dir, who, "bitmap", "--enable", "a.qcow2", name)
					case 3:
						must(t, dir, who, "bitmap", "--remove", "--add", "-g", fmt.Sprint(512<<r.IntN(10)), "a.qcow2", name)
					case 4:
						next := (1 + r.Int64N(size>>20)) << 20
						if strings.Contains(kind, "data_file") {
							next = size
						}
						must(t, dir, who, "resize", "-q", "--shrink", "a.qcow2", fmt.Sprint(next))
						size = next
					}
					sameBits(t, path)
					if out := runIn(t, dir, tools.img, "check", "a.qcow2"); out.code != 0 {
						t.Fatalf("check: %s%s", out.stdout, out.stderr)
					}
					if t.Failed() {
						return
					}
				}
			}
		})
	}
}

func theirTurn(t *testing.T, r *rand.Rand, tools cliBinaries, dir string, size int64) {
	t.Helper()
	args := []string{"-f", "qcow2", "-d", "unmap"}
	for range 1 + r.IntN(8) {
		off := r.Int64N(size/512) * 512
		n := (1 + r.Int64N(min(size-off, 1<<(10+r.IntN(11)))/512+1)) * 512
		n = min(n, size-off)
		op := []string{"write -P 5", "write -z", "write -z -u", "discard", "write -P 9"}[r.IntN(5)]
		args = append(args, "-c", fmt.Sprintf("%s %d %d", op, off, n))
	}
	must(t, dir, tools.io, append(args, "a.qcow2")...)
}

func ourTurn(t *testing.T, r *rand.Rand, path string) {
	t.Helper()
	img := library(t, path, true)
	for range 1 + r.IntN(8) {
		off := r.Int64N(img.Size()/512) * 512
		n := min((1+r.Int64N(1<<(1+r.IntN(11))))*512, img.Size()-off)
		var err error
		switch r.IntN(4) {
		case 0, 1:
			p := make([]byte, n)
			testkit.Fill(r, p)
			_, err = img.WriteAt(t.Context(), p, off)
		case 2:
			err = img.WriteZeroes(t.Context(), off, n, driver.ZeroMayUnmap)
		case 3:
			err = img.Discard(t.Context(), off, n)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	closeLibrary(t, img)
}

// TestBitmapSameWrites makes the same writes with both: the same bits are set.
func TestBitmapSameWrites(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	r := testkit.Rand(7)
	dir := t.TempDir()
	for _, name := range []string{"a.qcow2", "b.qcow2"} {
		must(t, dir, tools.img, "create", "-q", "-f", "qcow2", name, "32M")
		must(t, dir, tools.img, "bitmap", "--add", "-g", "512", name, "fine")
		must(t, dir, tools.img, "bitmap", "--add", name, "coarse")
	}
	img := library(t, filepath.Join(dir, "b.qcow2"), true)
	args := []string{"-f", "qcow2"}
	for range 40 {
		off, n := r.Int64N(62000)*512, (1+r.Int64N(300))*512
		zero := r.IntN(3) == 0
		var err error
		if zero {
			args = append(args, "-c", fmt.Sprintf("write -z %d %d", off, n))
			err = img.WriteZeroes(t.Context(), off, n, 0)
		} else {
			args = append(args, "-c", fmt.Sprintf("write -P 7 %d %d", off, n))
			p := make([]byte, n)
			for i := range p {
				p[i] = 7
			}
			_, err = img.WriteAt(t.Context(), p, off)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	closeLibrary(t, img)
	must(t, dir, tools.io, append(args, "a.qcow2")...)
	for _, name := range []string{"fine", "coarse"} {
		// Zeroes that were there already we need not write: what is ours lies within
		// what is theirs, and holds all writes of data.
		left, right := library(t, filepath.Join(dir, "a.qcow2"), false), library(t, filepath.Join(dir, "b.qcow2"), false)
		theirs, ours := ourRanges(t, left, name), ourRanges(t, right, name)
		closeLibrary(t, left)
		closeLibrary(t, right)
		for _, x := range ours {
			inside := false
			for _, y := range theirs {
				inside = inside || y[0] <= x[0] && x[1] <= y[1]
			}
			if !inside {
				t.Errorf("%s: %v is dirty, QEMU has %v", name, x, theirs)
			}
		}
		if len(ours) == 0 {
			t.Errorf("%s: nothing is dirty", name)
		}
	}
	if out := must(t, dir, tools.img, "compare", "a.qcow2", "b.qcow2"); !strings.Contains(out.stdout, "identical") {
		t.Error(out.stdout)
	}
}

// TestBitmapAllDirty: a bitmap of which all is dirty needs no room for its bits. The
// original reads it.
func TestBitmapAllDirty(t *testing.T) {
	tools := needCLI(t)
	testkit.Tool(t, "qemu-nbd")
	dir := t.TempDir()
	path := filepath.Join(dir, "a.qcow2")
	must(t, dir, tools.img, "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "a.qcow2", "10M")
	must(t, dir, tools.img, "bitmap", "--add", "-g", "512", "a.qcow2", "b")
	img := library(t, path, true)
	if err := img.Bitmaps().Set(t.Context(), "b", 0, 10<<20); err != nil {
		t.Fatal(err)
	}
	closeLibrary(t, img)
	sameBits(t, path)
	img = library(t, path, false)
	if got := fmt.Sprint(ourRanges(t, img, "b")); got != "[[0 10485760]]" {
		t.Error(got)
	}
	closeLibrary(t, img)
	if info, err := os.Stat(path); err != nil || info.Size() > 8<<10 {
		t.Errorf("%v %v", info.Size(), err)
	}
	must(t, dir, tools.img, "check", "a.qcow2")
	must(t, dir, tools.img, "bitmap", "--merge", "b", "a.qcow2", "b")
	sameBits(t, path)
}
