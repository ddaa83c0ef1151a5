package differential

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestRebaseOrder: what is copied lies in the file in the order of the disk, with many
// workers too, and progress is told in QEMU's steps.
func TestRebaseOrder(t *testing.T) {
	testkit.Tool(t, "qemu-img")
	for _, c := range []struct{ name, options string }{
		{"flat", "-b ''"}, {"other", "-b other -F qcow2"}, {"compressed", "-c -b ''"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var maps, steps [2]string
			for i, program := range []func(*testing.T, ...string) string{runOriginal, ours} {
				dir := t.TempDir()
				at := func(name string) string { return filepath.Join(dir, name) }
				qemu := func(args ...string) { testkit.Run(t, "qemu-img", args...) }
				qemu("create", "-q", "-f", "qcow2", at("base"), "64M")
				var writes []string
				r := testkit.Rand(7)
				for off := int64(0); off < 60<<20; off += r.Int64N(5 << 20) {
					writes = append(writes, "-c", fmt.Sprintf("write -q -P %d %d %d", 1+r.IntN(250), off, 512+r.Int64N(3<<20)))
				}
				testkit.Run(t, "qemu-io", append(append([]string{"-f", "qcow2"}, writes...), at("base"))...)
				qemu("create", "-q", "-f", "qcow2", at("other"), "64M")
				testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 4M", at("other"))
				qemu("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", at("top"), "64M")
				args := []string{"rebase", "-p"}
				for f := range strings.FieldsSeq(c.options) {
					args = append(args, strings.Trim(f, "'"))
				}
				said := program(t, append(args, at("top"))...)
				steps[i] = strings.Join(strings.Fields(said), " ")
				var entries []struct {
					Start, Length, Offset int64
					Data, Compressed      bool
				}
				if err := json.Unmarshal([]byte(testkit.Run(t, "qemu-img", "map", "--output=json", at("top"))), &entries); err != nil {
					t.Fatal(err)
				}
				last := int64(-1)
				for _, e := range entries {
					if e.Data && !e.Compressed {
						if e.Offset < last {
							t.Errorf("the disk from %d on lies before what is before it", e.Start)
						}
						last = e.Offset
					}
				}
				maps[i] = testkit.Run(t, "qemu-img", "check", "--output=json", at("top"))
			}
			var frag [2]struct {
				Fragmented int64 `json:"fragmented-clusters"`
				Allocated  int64 `json:"allocated-clusters"`
			}
			for i := range maps {
				if err := json.Unmarshal([]byte(maps[i]), &frag[i]); err != nil {
					t.Fatal(err)
				}
			}
			if frag[1].Fragmented > frag[0].Fragmented {
				t.Errorf("%d of %d clusters are fragmented, QEMU's are %d of %d", frag[1].Fragmented, frag[1].Allocated, frag[0].Fragmented, frag[0].Allocated)
			}
			if steps[0] != steps[1] {
				t.Errorf("progress: %s\nQEMU's: %s", steps[1], steps[0])
			}
		})
	}
}

// TestCommitProgress: what is copied counts, not how far in the disk that is.
func TestCommitProgress(t *testing.T) {
	testkit.Tool(t, "qemu-img")
	dir := t.TempDir()
	top := filepath.Join(dir, "top")
	testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", filepath.Join(dir, "base"), "1G")
	testkit.Run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", top)
	testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 1 800M 1M", "-c", "write -q -P 2 900M 3M", top)
	for _, want := range []string{"(0.00/100%) (25.00/100%) (50.00/100%) (75.00/100%) (100.00/100%) Image committed.", "(0.00/100%) (100.00/100%) Image committed."} {
		// The end may be told twice, as QEMU does.
		if got := strings.Join(slices.Compact(strings.Fields(ours(t, "commit", "-p", top))), " "); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
