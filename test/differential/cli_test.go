package differential

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// cliTools finds QEMU's programs and builds ours, once.
var cliTools = sync.OnceValues(func() (tools cliBinaries, err error) {
	if tools.img, err = exec.LookPath("qemu-img"); err != nil {
		return tools, err
	}
	if tools.io, err = exec.LookPath("qemu-io"); err != nil {
		return tools, err
	}
	// TestMain removes it.
	if cliDir, err = os.MkdirTemp("", "cowl-cli-"); err != nil {
		return tools, err
	}
	tools.ours = filepath.Join(cliDir, "qemu-img")
	return tools, testkit.Build(tools.ours, "./cmd/cowl")
})

var cliDir string

type cliBinaries struct{ img, io, ours string }

func TestMain(m *testing.M) {
	code := m.Run()
	if cliDir != "" {
		os.RemoveAll(cliDir)
	}
	os.Exit(code)
}

func needCLI(t *testing.T) cliBinaries {
	t.Helper()
	tools, err := cliTools()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("qemu-img and qemu-io are not installed")
	}
	if err != nil {
		t.Fatal(err)
	}
	return tools
}

// outcome is what a command did.
type outcome struct {
	stdout, stderr string
	code           int
}

func runIn(t *testing.T, dir, program string, args ...string) outcome {
	t.Helper()
	cmd := exec.Command(program, args...)
	// Messages begin with the name under which a program was called.
	cmd.Args[0] = filepath.Base(program)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C.UTF-8")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// fixtures makes the images that the command lines work on, with QEMU.
func fixtures(t *testing.T, tools cliBinaries) string {
	t.Helper()
	dir := t.TempDir()
	script := `
set -e
truncate -s 1M raw.img
"$IO" -f raw -c 'write -P 5 64k 128k' -c 'write -P 6 1000k 4k' raw.img
cp raw.img same.img
truncate -s 2M large.img
truncate -s 1M empty.img
truncate -s 2M tail.img
"$IO" -f raw -c 'write -P 7 1536k 64k' tail.img
"$IMG" create -f qcow2 a.qcow2 1M
"$IO" -c 'write -P 5 64k 128k' a.qcow2
"$IMG" create -f qcow2 -b a.qcow2 -F qcow2 mid.qcow2
"$IO" -c 'write -P 9 256k 64k' -c 'write -z 320k 64k' mid.qcow2
"$IMG" create -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2 2M
"$IMG" create -f qcow2 -o compat=0.10,cluster_size=4k old.qcow2 3M
"$IMG" convert -c -O qcow2 raw.img comp.qcow2
"$IMG" create -f qcow2 -o data_file=ext.data ext.qcow2 1M
"$IO" -c 'write -P 3 0 64k' ext.qcow2
cp a.qcow2 snap.qcow2
"$IMG" snapshot -c first snap.qcow2
"$IMG" snapshot -c 'a longer snapshot name than fits' snap.qcow2
"$IO" -c 'write -P 8 0 64k' snap.qcow2
"$IMG" create -f qcow2 -u -b nowhere.qcow2 -F qcow2 orphan.qcow2 1M
"$IMG" create -f qcow2 bitmap.qcow2 10G
"$IMG" bitmap --add -g 4k bitmap.qcow2 one
"$IMG" bitmap --add bitmap.qcow2 two
"$IO" -c 'write -P 1 1G 8k' bitmap.qcow2
mkdir dir sub
"$IMG" create -f qcow2 -b ../a.qcow2 -F qcow2 sub/o.qcow2
cp a.qcow2 corrupt.qcow2
printf '\0\0' | dd of=corrupt.qcow2 bs=1 seek=131082 conv=notrunc status=none
cp a.qcow2 leak.qcow2
"$IO" -c 'write 512k 64k' leak.qcow2
printf '\0\0\0\0\0\0\0\0' | dd of=leak.qcow2 bs=1 seek=262208 conv=notrunc status=none
head -c 70000 raw.img > odd.img
`
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "IMG="+tools.img, "IO="+tools.io)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("fixtures: %v\n%s", err, out)
	}
	return dir
}

var volatileText = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`disk size: .*`), "disk size: X"},
	{regexp.MustCompile(`Run completed in [0-9.]+ seconds`), "Run completed in X seconds"},
	{regexp.MustCompile(`/[^ '"]*/qemu-img`), "qemu-img"}, // the newest has its own loader
	// Words of 10.0 that 11.1 has in another form.
	{regexp.MustCompile(`(Invalid [a-z ]+ specified: '[^']*')\.`), "$1"},
	{regexp.MustCompile(`possibilities: '--object' '--options'`), "possibilities: '--options' '--object'"},
	{regexp.MustCompile(`more info\n`), "more information\n"},
	{regexp.MustCompile(`(--output expects 'human' or 'json'|--repair \(-r\) expects 'leaks' or 'all') not`), "$1, not"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "DATE"},
	{regexp.MustCompile(`(    \(\d+\.\d\d/100%\)\r)+`), "PROGRESS"},
}

func normal(s string) string {
	for _, v := range volatileText {
		s = v.re.ReplaceAllString(s, v.with)
	}
	return strings.TrimSpace(s)
}

// normalJSON takes out what depends on the file system.
func normalJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		delete(v, "actual-size")
		delete(v, "date-sec")
		delete(v, "date-nsec")
		for k := range v {
			v[k] = normalJSON(v[k])
		}
	case []any:
		for i := range v {
			v[i] = normalJSON(v[i])
		}
	}
	return v
}

func sameOutput(a, b string) bool {
	var x, y any
	if json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil {
		return reflect.DeepEqual(normalJSON(x), normalJSON(y))
	}
	return normal(a) == normal(b)
}

// words splits a command line at blanks, with single quotes.
func words(line string) (out []string) {
	var cur strings.Builder
	quoted, any := false, false
	for _, r := range line {
		switch {
		case r == '\'':
			quoted, any = !quoted, true
		case r == ' ' && !quoted:
			if any || cur.Len() > 0 {
				out = append(out, cur.String())
				cur.Reset()
			}
			any = false
		default:
			cur.WriteRune(r)
		}
	}
	if any || cur.Len() > 0 {
		out = append(out, cur.String())
	}
	return out
}

func TestCLI(t *testing.T) { testCLI(t, needCLI(t), cliDifferences) }

// TestCLINewest compares with the newest version of QEMU, whose words ours
// are. It is in the directory that COWL_QEMU_NEWEST names.
func TestCLINewest(t *testing.T) {
	tools := needCLI(t)
	tools.img = filepath.Join(newestDir(t), "qemu-img")
	testCLI(t, tools, cliNewestDifferences)
}

// newestDir is where the newest version of QEMU is.
func newestDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("COWL_QEMU_NEWEST")
	if dir == "" {
		t.Skip("COWL_QEMU_NEWEST does not name a directory with the newest version of QEMU's tools")
	}
	return dir
}

// testCLI runs the table beside tools.img.
func testCLI(t *testing.T, tools cliBinaries, differences map[string]string) {
	base := fixtures(t, tools)
	shared := [2]string{copyTree(t, base), copyTree(t, base)}
	seen := map[string]bool{}
	t.Run("lines", func(t *testing.T) {
		for _, line := range cliLines() {
			if seen[line] {
				t.Errorf("%q stands twice in the table", line)
			}
			seen[line] = true
			t.Run(line, func(t *testing.T) {
				t.Parallel()
				left, right := shared[0], shared[1]
				if !readOnlyLine(line) {
					left, right = copyTree(t, base), copyTree(t, base)
				}
				// Lines of a session are separated by " && ".
				for _, l := range strings.Split(line, " && ") {
					want := runIn(t, left, tools.img, words(l)...)
					got := runIn(t, right, tools.ours, words(l)...)
					if reason := differences[l]; reason != "" {
						if got.code == want.code && sameOutput(got.stdout, want.stdout) && normal(got.stderr) == normal(want.stderr) {
							t.Errorf("%s: listed as an intended difference (%s), but there is none", l, reason)
						}
						continue
					}
					if got.code != want.code {
						t.Errorf("%s: exit code %d, want %d", l, got.code, want.code)
					}
					if !sameOutput(got.stdout, want.stdout) {
						t.Errorf("%s: standard output\n%s\nwant\n%s", l, got.stdout, want.stdout)
					}
					if normal(got.stderr) != normal(want.stderr) {
						t.Errorf("%s: standard error\n%s\nwant\n%s", l, got.stderr, want.stderr)
					}
				}
				if left != shared[0] && differences[line] == "" && cliOtherFiles[line] == "" {
					sameFiles(t, tools, left, right)
				}
			})
		}
	})
	for line := range differences {
		if !seen[line] {
			t.Errorf("intended difference %q is not in the table", line)
		}
	}
}

// readOnlyLine says whether a command line changes nothing, so that it can work
// on the images themselves.
func readOnlyLine(line string) bool {
	switch cmd, _, _ := strings.Cut(line, " "); cmd {
	case "info", "map", "compare", "measure":
		return !strings.Contains(line, " && ")
	}
	return false
}

// sameFiles compares what the two runs left behind: names, formats, sizes of
// disks, and what a guest would read. The folders were made by copyTree.
func sameFiles(t *testing.T, tools cliBinaries, left, right string) {
	t.Helper()
	l, r := tree(t, left), tree(t, right)
	if !reflect.DeepEqual(l, r) {
		t.Errorf("files %v, want %v", r, l)
		return
	}
	for _, name := range l {
		if untouched(filepath.Join(left, name)) && untouched(filepath.Join(right, name)) {
			continue
		}
		if same, err := sameData(filepath.Join(left, name), filepath.Join(right, name)); err != nil || same {
			continue
		}
		x := runIn(t, left, tools.img, "info", "--output=json", name)
		y := runIn(t, right, tools.img, "info", "--output=json", name)
		if x.code != y.code || !sameOutput(trimLengths(x.stdout), trimLengths(y.stdout)) {
			t.Errorf("%s: info\n%s%s\nwant\n%s%s", name, y.stdout, y.stderr, x.stdout, x.stderr)
			continue
		}
		if x.code != 0 || runIn(t, left, tools.img, "map", name).code != 0 {
			continue // a file that it names is missing: there is nothing to read
		}
		res := runIn(t, left, tools.img, "compare", "-s", name, filepath.Join(right, name))
		if res.code != 0 && !strings.Contains(res.stdout, "block status") {
			t.Errorf("%s: %s%s", name, res.stdout, res.stderr)
		}
	}
}

var childLength = regexp.MustCompile(`(?s)"info": \{.*?"virtual-size": \d+`)

// trimLengths takes the length of the file below a format out of JSON: it
// depends on where clusters were put.
func trimLengths(s string) string { return childLength.ReplaceAllString(s, `"info": {"x": 0`) }

func tree(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(names)
	return names
}
