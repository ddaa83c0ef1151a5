package differential

import (
	"crypto/sha256"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestParents makes differencing images on top of images of QEMU, which has none. 7-Zip
// reads them as we do, and libvhdi finds the parent.
func TestParents(t *testing.T) {
	testkit.Tool(t, "qemu-img")
	testkit.Tool(t, "7zz")
	for _, c := range []struct {
		format, kind, ending string
		parent               []string // options of the parent
		child                []string // arguments for the child
	}{
		{"vpc", "VHD", ".vhd", []string{"force_size=on"}, nil},
		{"vhdx", "VHDX", ".vhdx", []string{"block_size=1M"}, []string{"-o", "block_size=1M"}},
		{"vhdx", "VHDX", ".vhdx", []string{"subformat=fixed"}, nil},
	} {
		for seed := range testkit.Count(2) {
			t.Run(fmt.Sprint(c.format, seed), func(t *testing.T) {
				t.Parallel()
				dir, r := t.TempDir(), testkit.Rand(uint64(seed))
				base, path := filepath.Join(dir, "base"+c.ending), filepath.Join(dir, "child"+c.ending)
				size := (1 + r.Int64N(6<<20)) &^ 511
				f := unitFormat{name: c.format}
				args := []string{"create", "-q", "-f", c.format}
				for _, o := range c.parent {
					args = append(args, "-o", o)
				}
				testkit.Run(t, "qemu-img", append(args, base, fmt.Sprint(size))...)
				unitsByQEMU(t, r, f, base)
				m := testkit.NewModel(size)
				m.Write(readUnits(t, f, base), 0)
				if got := ourProgram(t, append([]string{"create", "-q", "-f", c.format, "-b", "base" + c.ending, "-F", c.format, path}, c.child...)...); got.code != 0 {
					t.Fatal(got.stderr)
				}
				img := openUnits(t, f, path, true)
				for range 6 {
					off := r.Int64N(size)
					p := make([]byte, min(1+r.Int64N(100<<10), size-off))
					testkit.FillDisk(r, p)
					if _, err := img.WriteAt(t.Context(), p, off); err != nil {
						t.Fatal(err)
					}
					m.Write(p, off)
				}
				closeLibrary(t, img)
				out, err := exec.Command("7zz", "x", "-so", "-t"+c.kind, path).Output()
				if err != nil {
					t.Fatal(err)
				}
				if d := m.Diff(out, 0); d != "" {
					t.Fatal("7-Zip reads: ", d)
				}
				if sha256.Sum256(out) == sha256.Sum256(readUnits(t, f, base)) {
					t.Error("the child shows what the parent does")
				}
				if _, err := exec.LookPath("vhdiinfo"); err != nil {
					t.Skip("no vhdiinfo, which ./test.sh setup installs (libvhdi-utils)")
				}
				info := testkit.Run(t, "vhdiinfo", path)
				if !regexp.MustCompile(`Differential`).MatchString(info) || !regexp.MustCompile(`Parent identifier\s*: .*[1-9a-f]`).MatchString(info) {
					t.Error(info)
				}
			})
		}
	}
}
