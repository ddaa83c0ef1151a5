//go:build unix

package differential

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// cost is what a process took.
type cost struct {
	Stdout, Stderr string
	Code           int
	RSS            int64         // bytes, at most
	Spent          time.Duration // of processors: the clock tells how busy the machine is
}

// measured runs our program in dir and finds out what it takes.
func measured(t *testing.T, dir string, args ...string) cost {
	t.Helper()
	tools := needCLI(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, append([]string{"-test.run=^TestMeasured$", "--", filepath.Join(filepath.Dir(tools.ours), "cowl")}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), measuredEnv+"=1")
	var report, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &report, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, errs.String())
	}
	var c cost
	if err := json.Unmarshal(report.Bytes(), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

const measuredEnv = "COWL_TEST_MEASURED"

// TestMeasured is no test but the process between measured and the program: a
// process begins with the memory of the one that starts it as its highest mark,
// and a test may have used a lot.
func TestMeasured(t *testing.T) {
	if os.Getenv(measuredEnv) == "" {
		t.Skip("is for other tests to call")
	}
	args := flag.Args()
	cmd := exec.Command(args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	c := cost{Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode(), Spent: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if use, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.RSS = use.Maxrss
		if runtime.GOOS != "darwin" {
			c.RSS *= 1024
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(c); err != nil {
		t.Fatal(err)
	}
	os.Exit(0)
}

// asCowl gives our binary its own name too.
func asCowl(t *testing.T) {
	t.Helper()
	tools := needCLI(t)
	err := os.Symlink(filepath.Base(tools.ours), filepath.Join(filepath.Dir(tools.ours), "cowl"))
	if err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
}

// TestProgramMemory works on disks of 800 GiB and more, and lets no command take
// more than 128 MiB.
func TestProgramMemory(t *testing.T) {
	asCowl(t)
	dir := inDir(t, `
qemu-img create -q -f qcow2 -o preallocation=metadata,cluster_size=2M meta.q 1T
qemu-img create -q -f qcow2 sparse.q 800G
i=0
set --
while [ $i -lt 800 ]; do
	set -- "$@" -c "write -q -P $((i % 255 + 1)) ${i}G 64k"
	i=$((i + 1))
done
qemu-io -f qcow2 "$@" sparse.q
truncate -s 800G sparse.raw
qemu-img convert -n -f qcow2 -O raw -S 4k -n sparse.q sparse.raw
qemu-img create -q -f qcow2 small.q 1600M
qemu-img create -q -f raw small.raw 1600M
i=0
set --
while [ $i -lt 100 ]; do
	set -- "$@" -c "write -q -P $((i % 255 + 1)) $((i * 16))M 1M"
	i=$((i + 1))
done
qemu-io -f raw "$@" small.raw
`)
	limit := int64(128 << 20)
	for _, line := range []string{
		"convert -f raw -O qcow2 small.raw out",
		"convert -c -f raw -O qcow2 small.raw out",
		"convert -f raw -O qcow2 sparse.raw out",
		"convert -f qcow2 -O raw sparse.q out",
		"convert -c -f qcow2 -O qcow2 sparse.q out",
		"convert -c -o compression_type=zstd -f qcow2 -O qcow2 sparse.q out",
		"convert -f qcow2 -O qcow2 -o cluster_size=4k sparse.q out",
		"convert -f qcow2 -O qcow2 -o extended_l2=on sparse.q out",
		"convert -f qcow2 -O qcow2 meta.q out",
		"compare -f qcow2 -F raw sparse.q sparse.raw",
		"compare -s -f qcow2 -F qcow2 sparse.q sparse.q",
		"check meta.q",
		"check sparse.q",
		"map --output=json sparse.q",
		"map --output=json meta.q",
		"measure -O qcow2 sparse.q",
		"measure -O qcow2 sparse.raw",
		"info sparse.q",
		"checksum -f qcow2 small.q",
		"checksum -f raw small.raw",
		"create -f qcow2 -o preallocation=metadata,cluster_size=2M out 1T",
		"create -f qcow2 -o preallocation=metadata out 100G",
		"resize meta.q 2T",
		"convert -O qcow2 null-co:// out",
		"bench -c 1000 -w -f qcow2 -S 1G sparse.q",
	} {
		t.Run(line, func(t *testing.T) {
			os.Remove(filepath.Join(dir, "out"))
			c := measured(t, dir, words(line)...)
			t.Logf("%d MiB, %v", c.RSS>>20, c.Spent.Round(time.Millisecond))
			strict := strings.HasPrefix(line, "compare -s")
			if c.Code != 0 && !(strict && c.Code == 1) {
				t.Errorf("exit code %d: %s%s", c.Code, c.Stdout, c.Stderr)
			}
			if c.RSS > limit {
				t.Errorf("took %d MiB", c.RSS>>20)
			}
		})
	}
}

// damage changes an image of 64 MiB with clusters of 4 KiB and all metadata.
type damage struct {
	name string
	do   func(f *os.File)
}

func put(f *os.File, off int64, v any) {
	b, err := binary.Append(nil, binary.BigEndian, v)
	if err == nil {
		_, err = f.WriteAt(b, off)
	}
	if err != nil {
		panic(err)
	}
}

func get(f *os.File, off int64) uint64 {
	var b [8]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		panic(err)
	}
	return binary.BigEndian.Uint64(b[:])
}

func tableOf(f *os.File, i int64) int64 {
	return int64(get(f, int64(get(f, 40))+8*i) & 0x00fffffffffffe00)
}

// eachEntry writes what fn says to the first L2 tables.
func eachEntry(f *os.File, tables int64, fn func(i int64) uint64) {
	for k := range tables {
		at := tableOf(f, k)
		b := make([]byte, 0, 4096)
		for i := range int64(512) {
			b = binary.BigEndian.AppendUint64(b, fn(k*512+i))
		}
		if _, err := f.WriteAt(b, at); err != nil {
			panic(err)
		}
	}
}

var damages = []damage{
	{"size 2^63-512", func(f *os.File) { put(f, 24, uint64(1<<63-512)) }},
	{"size 2^64-1", func(f *os.File) { put(f, 24, uint64(1<<64-1)) }},
	{"size 2^56 and an L1 of 32 MiB", func(f *os.File) { put(f, 24, uint64(1<<43)); put(f, 36, uint32(4<<20)) }},
	{"L1 of 4 Gi entries", func(f *os.File) { put(f, 36, uint32(1<<32-1)) }},
	{"L1 beyond the end", func(f *os.File) { put(f, 36, uint32(4<<20)); put(f, 40, uint64(1<<40)) }},
	{"L1 is the header", func(f *os.File) { put(f, 40, uint64(0)) }},
	{"L1 entries all the same", func(f *os.File) {
		for i := range int64(32) {
			put(f, int64(get(f, 40))+8*i, get(f, int64(get(f, 40))))
		}
	}},
	{"refcount table of 4 Gi clusters", func(f *os.File) { put(f, 56, uint32(1<<32-1)) }},
	{"refcount table of 8 MiB", func(f *os.File) { put(f, 48, uint64(1<<40)); put(f, 56, uint32(2048)) }},
	{"refcount table in the header", func(f *os.File) { put(f, 48, uint64(0)) }},
	{"cluster bits 31", func(f *os.File) { put(f, 20, uint32(31)) }},
	{"cluster bits 21", func(f *os.File) { put(f, 20, uint32(21)) }},
	{"cluster bits 9", func(f *os.File) { put(f, 20, uint32(9)) }},
	{"4 Gi snapshots", func(f *os.File) { put(f, 60, uint32(1<<32-1)) }},
	{"65536 snapshots beyond the end", func(f *os.File) { put(f, 60, uint32(65536)); put(f, 64, uint64(1<<40)) }},
	{"snapshots in the L1 table", func(f *os.File) { put(f, 60, uint32(1000)); put(f, 64, get(f, 40)) }},
	{"backing name of 4 GiB", func(f *os.File) { put(f, 8, uint64(200)); put(f, 16, uint32(1<<32-1)) }},
	{"extension of 4 GiB", func(f *os.File) { put(f, 112, uint32(0x6803f857)); put(f, 116, uint32(1<<32-1)) }},
	{"header of 4 GiB", func(f *os.File) { put(f, 100, uint32(1<<32-1)) }},
	{"L2 all ones", func(f *os.File) { eachEntry(f, 32, func(int64) uint64 { return 1<<64 - 1 }) }},
	{"L2 is data", func(f *os.File) {
		at := uint64(tableOf(f, 0))
		eachEntry(f, 32, func(int64) uint64 { return at | 1<<63 })
	}},
	{"L2 far away", func(f *os.File) { eachEntry(f, 32, func(i int64) uint64 { return uint64(1<<50+i*4096) | 1<<63 }) }},
	{"compressed far away", func(f *os.File) { eachEntry(f, 32, func(i int64) uint64 { return 1<<62 | 15<<58 | uint64(1<<45+i) }) }},
	{"compressed header", func(f *os.File) { eachEntry(f, 32, func(int64) uint64 { return 1<<62 | 15<<58 }) }},
	{"compressed bomb", func(f *os.File) {
		// A megabyte of zeroes deflated, where a cluster should come out.
		end, err := f.Seek(0, 2)
		if err != nil {
			panic(err)
		}
		b := []byte{0xed, 0xc1, 0x01, 0x01, 0, 0, 0, 0x80, 0x90, 0xfe, 0xaf, 0xee, 0x08, 0x0a}
		b = append(b, bytes.Repeat([]byte{0}, 8192-len(b))...)
		if _, err := f.WriteAt(b, end); err != nil {
			panic(err)
		}
		eachEntry(f, 32, func(int64) uint64 { return 1<<62 | 15<<58 | uint64(end) })
	}},
	{"enormous file", func(f *os.File) {
		if err := f.Truncate(1 << 43); err != nil {
			panic(err)
		}
	}},
	{"cut in the header", func(f *os.File) {
		if err := f.Truncate(80); err != nil {
			panic(err)
		}
	}},
}

// TestProgramHostile gives the program images that lie: it must answer soon, with
// little memory, and never crash.
func TestProgramHostile(t *testing.T) {
	asCowl(t)
	dir := inDir(t, `qemu-img create -q -f qcow2 -o cluster_size=4k,preallocation=metadata base 64M`)
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			name := filepath.Join(dir, "image")
			testkit.Run(t, "cp", "--sparse=always", filepath.Join(dir, "base"), name)
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			d.do(f)
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			var most int64
			for _, line := range []string{"info image", "info --output=json -f qcow2 image", "check -f qcow2 image", "map -f qcow2 --output=json image", "measure -O qcow2 -f qcow2 image",
				"convert -f qcow2 -O raw image out", "convert -f qcow2 -O qcow2 image out", "compare -f qcow2 -F qcow2 image image", "check -f qcow2 -r all image"} {
				c := measured(t, dir, words(line)...)
				most = max(most, c.RSS)
				if c.Spent > 2*time.Second { // two processors for a second
					t.Errorf("%s: took %v", line, c.Spent)
				}
				if c.RSS > 64<<20 {
					t.Errorf("%s: took %d MiB", line, c.RSS>>20)
				}
				if c.Code < 0 || c.Code > 63 || c.Code == 2 && !strings.HasPrefix(line, "check") && !strings.HasPrefix(line, "compare") ||
					strings.Contains(c.Stderr, "goroutine ") || strings.Contains(c.Stderr, "panic") {
					t.Errorf("%s: exit code %d\n%.1000s", line, c.Code, c.Stderr)
				}
				os.Remove(filepath.Join(dir, "out"))
			}
			t.Logf("at most %d MiB", most>>20)
		})
	}
}
