package differential

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestQcow2Convert converts between images of all kinds, into new and into
// existing ones. What comes out has the content, nothing that either check
// complains about, and is no larger than what QEMU makes.
func TestQcow2Convert(t *testing.T) {
	testkit.Tool(t, "qemu-img")
	for seed := range matrixImages(70) {
		r := testkit.Rand(2000 + uint64(seed))
		from, to := pickSpec(r), pickSpec(r)
		if to.cluster == 512 {
			// QEMU takes minutes to compress many small clusters.
			from.size = min(from.size, 1<<20)
		}
		to.size = from.size
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			t.Logf("%v to %v", from, to)
			convertCase(t, r, from, to)
		})
	}
}

func convertCase(t *testing.T, r *rand.Rand, from, to spec) {
	dirs := [3]string{t.TempDir(), t.TempDir(), t.TempDir()}
	source := filepath.Join(dirs[0], "image")
	from.makeBase(t, r, dirs[0])
	makeByOriginal(t, r, from, dirs[0], source)
	changeByOriginal(t, r, source)
	content := readByOriginal(t, source)
	to.size = int64(len(content))

	var how []string
	existing := r.IntN(3) == 0
	if !to.dataFile && r.IntN(2) == 0 {
		how = append(how, "-c")
		to.prealloc = "off"
	}
	if existing {
		how = append(how, "-n")
	} else if r.IntN(3) == 0 {
		how = append(how, "-S", pick(r, "0", "512", "4k", "64k"))
	}
	if r.IntN(2) == 0 {
		how = append(how, "-m", fmt.Sprint(1+r.IntN(8)))
	}
	if r.IntN(4) == 0 {
		how = append(how, "-W")
	}
	if existing {
		to.backing = ""
	}
	if to.backing != "" {
		to.prealloc = "off"
	}
	t.Logf("convert %v", how)
	var results [2]string
	// The base of the target holds something else: all of it must be covered.
	seed := r.Uint64()
	for i, program := range []func(*testing.T, ...string) string{runOriginal, ours} {
		dir := dirs[i+1]
		same := testkit.Rand(seed)
		to.makeBase(t, same, dir)
		path := filepath.Join(dir, "image")
		results[i] = path
		args := append([]string{"convert", "-f", "qcow2", "-O", "qcow2"}, how...)
		if existing {
			larger := to
			if !compressing(how) {
				larger.size += 512 * same.Int64N(1000) // QEMU cannot end amid a cluster then
			}
			testkit.Run(t, "qemu-img", append(append([]string{"create", "-q", "-f", "qcow2"}, larger.args(dir)...), path, fmt.Sprint(larger.size))...)
			if !compressing(how) {
				testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -q -P 99 0 %d", min(larger.size, 400<<10)), path)
			}
		} else {
			for _, a := range to.args(dir) {
				if a == "-b" {
					a = "-B"
				}
				args = append(args, a)
			}
		}
		program(t, append(args, source, path)...)
	}
	checkBoth(t, results[1])
	got := readByOriginal(t, results[1])
	if want := readByOriginal(t, results[0]); !bytes.Equal(got, want) {
		t.Fatal("the content is not that of QEMU's image")
	}
	// What the source leaves to its backing file is left to that of the target.
	if to.backing == "" || from.backing == "" {
		if len(got) < len(content) || !bytes.Equal(got[:len(content)], content) {
			t.Fatalf("the content differs, %d bytes of %d", len(got), len(content))
		}
	}
	// Ours holds no more than QEMU's, up to a cluster that is all written.
	if a, b := required(t, results[0]), required(t, results[1]); b > a+to.cluster {
		t.Errorf("measures %d bytes, that of QEMU %d", b, a)
	}
	if a, b := allocated(t, results[0]), allocated(t, results[1]); b > a+a/10+int64(4*to.cluster) {
		t.Errorf("takes %d bytes, that of QEMU %d", b, a)
	}
	raw := filepath.Join(dirs[0], "back.raw")
	ours(t, "convert", "-f", "qcow2", "-O", "raw", results[1], raw)
	if back, err := os.ReadFile(raw); err != nil || !bytes.Equal(back, got) {
		t.Fatalf("converting back: %v, or other content", err)
	}
	sameCommand(t, "compare", "-f", "qcow2", "-F", "raw", source, raw)
	sameCommand(t, "compare", "-f", "qcow2", "-F", "qcow2", source, results[0])
}

func runOriginal(t *testing.T, args ...string) string {
	t.Helper()
	return testkit.Run(t, "qemu-img", args...)
}

func compressing(how []string) bool { return len(how) > 0 && how[0] == "-c" }

// required is what it would take to store the disk with clusters of 64 KiB.
func required(t *testing.T, path string) int64 {
	t.Helper()
	var m struct{ Required int64 }
	if err := json.Unmarshal([]byte(testkit.Run(t, "qemu-img", "measure", "-O", "qcow2", "--output=json", path)), &m); err != nil {
		t.Fatal(err)
	}
	return m.Required
}

// allocated is the length of an image and of its data file.
func allocated(t *testing.T, path string) (n int64) {
	t.Helper()
	for _, name := range []string{path, filepath.Join(filepath.Dir(path), "data.raw")} {
		if st, err := os.Stat(name); err == nil {
			n += st.Size()
		}
	}
	return n
}
