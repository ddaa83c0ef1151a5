package differential

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
)

// randomChain makes a chain of two to four layers with the given program, and
// fills it with QEMU's qemu-io. It returns the names from the base up and
// the formats.
func randomChain(t *testing.T, r *rand.Rand, tools cliBinaries, maker, dir, prefix string) (names, formats []string) {
	t.Helper()
	for i := range 2 + r.IntN(3) {
		name, format := fmt.Sprintf("%s%d.img", prefix, i), "qcow2"
		size := fmt.Sprint((512<<10 + r.Int64N(1<<20)) &^ 511)
		args := []string{"create", "-q", "-f"}
		if i == 0 && r.IntN(2) == 0 {
			format = "raw"
			args = append(args, format)
		} else {
			list := []string{"compat=0.10,cluster_size=4096", "extended_l2=on,cluster_size=32768", "cluster_size=512,refcount_bits=8",
				"data_file=" + name + ".data,cluster_size=8192", "lazy_refcounts=on,compression_type=zstd,cluster_size=16384", "cluster_size=65536"}
			args = append(args, format, "-o", list[r.IntN(len(list))])
		}
		if i > 0 {
			args = append(args, "-b", names[i-1], "-F", formats[i-1])
		}
		must(t, dir, maker, append(args, name, size)...)
		io := []string{"-f", format}
		for range 8 {
			n := 1 + r.IntN(150)
			off := r.IntN(1024 - n)
			cmd := fmt.Sprintf("write -P %d %d %d", 1+r.IntN(250), off*512, n*512)
			if r.IntN(4) == 0 {
				cmd = fmt.Sprintf("write -z %d %d", off*512, n*512)
			}
			io = append(io, "-c", cmd)
		}
		must(t, dir, tools.io, append(io, name)...)
		names, formats = append(names, name), append(formats, format)
	}
	return names, formats
}

func must(t *testing.T, dir, program string, args ...string) outcome {
	t.Helper()
	res := runIn(t, dir, program, args...)
	if res.code != 0 {
		t.Fatalf("%s %s: exit code %d: %s%s", filepath.Base(program), strings.Join(args, " "), res.code, res.stdout, res.stderr)
	}
	return res
}

// TestRandomChains does the same to equal chains with QEMU and with us.
// Chains are made by both, so that each works on images of the other.
func TestRandomChains(t *testing.T) {
	tools := needCLI(t)
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 77))
			maker := []string{tools.img, tools.ours}[seed%2]
			dir := t.TempDir()
			names, formats := randomChain(t, r, tools, maker, dir, "l")
			other, otherFormats := randomChain(t, r, tools, maker, dir, "m")
			top := len(names) - 1
			must(t, dir, tools.img, "convert", "-O", "raw", names[top], "before.raw")
			left, right := copyTree(t, dir), copyTree(t, dir)
			var args []string
			same := []string{names[top]} // what must show the same as before
			switch r.IntN(6) {
			case 0:
				args = []string{"commit", names[top]}
			case 1:
				args = []string{"commit", "-d", names[top]}
			case 2:
				args = []string{"commit", "-b", names[r.IntN(top)], names[top]}
				same = nil
			case 3:
				args = []string{"rebase", "-b", "", names[top]}
			case 4:
				i := r.IntN(top)
				args = []string{"rebase", "-b", names[i], "-F", formats[i], names[top]}
			case 5:
				i := r.IntN(len(other))
				args = []string{"rebase", "-b", other[i], "-F", otherFormats[i], names[top]}
			}
			// QEMU cannot make a version 2 base larger over a longer backing
			// file: then there is nothing to compare with.
			failed := runIn(t, left, tools.img, args...).code != 0
			must(t, right, tools.ours, args...)
			for _, name := range same {
				must(t, right, tools.img, "compare", name, "before.raw")
			}
			for i, name := range append(names, other...) {
				format := append(formats, otherFormats...)[i]
				// A layer between the base of a commit and its top is invalid
				// afterwards, in the same way.
				if !failed {
					must(t, right, tools.img, "compare", "-f", format, "-F", format, name, filepath.Join(left, name))
				}
				if format == "qcow2" {
					must(t, right, tools.img, "check", name)
				}
			}
			if failed {
				return
			}
			a, b := must(t, left, tools.img, "info", "--output=json", names[top]), must(t, right, tools.img, "info", "--output=json", names[top])
			if !sameOutput(trimLengths(a.stdout), trimLengths(b.stdout)) {
				t.Errorf("%v: info\n%s\nwant\n%s", args, b.stdout, a.stdout)
			}
			if t.Failed() {
				t.Log(args)
			}
		})
	}
}
