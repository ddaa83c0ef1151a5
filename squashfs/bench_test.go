package squashfs_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/squashfs"
)

// BenchmarkBesideMksquashfs packs the folder COWL_BENCH_TREE (else /usr/share/perl) with
// mksquashfs and with Write, with the same number of processors, and reports how many
// times as much wall and processor time mksquashfs takes, and our size in parts of its.
// The folder is read in both, from the page cache.
func BenchmarkBesideMksquashfs(b *testing.B) {
	testkit.Tool(b, "mksquashfs")
	dir := os.Getenv("COWL_BENCH_TREE")
	if dir == "" {
		dir = "/usr/share/perl"
	}
	for _, o := range []squashfs.Options{
		{Compression: squashfs.LZ4}, {Compression: squashfs.Zstd, Level: 3}, {Compression: squashfs.Zstd}, {Compression: squashfs.Gzip}, {Compression: squashfs.XZ},
	} {
		o.BlockSize = 1 << 20
		b.Run(fmt.Sprintf("%s-%d", o.Compression, o.Level), func(b *testing.B) {
			for b.Loop() {
				besideMksquashfs(b, dir, o)
			}
		})
	}
}

func besideMksquashfs(b *testing.B, dir string, o squashfs.Options) {
	theirs, ours := filepath.Join(b.TempDir(), "theirs"), filepath.Join(b.TempDir(), "ours")
	args := []string{dir, theirs, "-noappend", "-no-progress", "-no-exports", "-quiet", "-b", "1M", "-comp", o.Compression.String(), "-processors", fmt.Sprint(runtime.GOMAXPROCS(0))}
	if o.Level > 0 {
		args = append(args, "-Xcompression-level", fmt.Sprint(o.Level))
	}
	cmd := exec.Command("mksquashfs", args...)
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v %s", err, out)
	}
	theirWall, theirCPU := time.Since(start), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()

	cpu := testkit.CPUTime()
	start = time.Now()
	tree, err := fstree.FromDir(dir, fstree.Options{})
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(ours)
	if err != nil {
		b.Fatal(err)
	}
	r, err := squashfs.Write(context.Background(), f, tree.Root, o)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
	wall, ourCPU := time.Since(start), testkit.CPUTime()-cpu
	info, err := os.Stat(theirs)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(theirWall.Seconds(), "their-s")
	b.ReportMetric(theirWall.Seconds()/wall.Seconds(), "wall-ratio")
	b.ReportMetric(theirCPU.Seconds()/ourCPU.Seconds(), "cpu-ratio")
	b.ReportMetric(float64(r.Size)/float64(info.Size()), "size-ratio")
	b.ReportMetric(float64(r.Size)/1e6, "MB")
}
