package qcow2

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/qapi"
)

func copyTestFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// readTestFile returns what a file holds, to be compared.
func readTestFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// openForCheck opens an image file as the check command does.
func openForCheck(t testing.TB, file driver.Storage, write bool) (*image, error) {
	env := testEnv()
	env.Objects = testSecrets{"s": "abc"}
	env.Words = words.Text
	env.OpenChild = func(_ context.Context, ref driver.ChildRef) (driver.Storage, error) {
		return openDiskFile(t, ref.Filename), nil
	}
	n, err := new(Driver).Open(context.Background(), &driver.OpenRequest{Name: "test", File: file, Env: env,
		Access: driver.Access{Write: write, Check: true}, Options: opts.Dict{"encrypt.key-secret": "s"}})
	if err != nil {
		return nil, err
	}
	return n.(*image), nil
}

// checkRun is what a check says, in the shapes of the command.
type checkRun struct {
	result qapi.ImageCheck
	lines  []string
	fail   string
}

// ourCheck does what the check command does: if something was repaired, it
// checks once more.
func ourCheck(t testing.TB, path string, fix driver.CheckFix) checkRun {
	t.Helper()
	var run checkRun
	im, err := openForCheck(t, openDiskFile(t, path), fix.Leaks || fix.Errors)
	if err != nil {
		run.fail = words.Text(err)
		return run
	}
	report := func(l string) { run.lines = append(run.lines, l) }
	res, err := im.Check(context.Background(), fix, report, nil)
	if err == nil && res.CorruptionsFixed+res.LeaksFixed > 0 {
		c, l := res.CorruptionsFixed, res.LeaksFixed
		res, err = im.Check(context.Background(), driver.CheckFix{}, report, nil)
		res.CorruptionsFixed, res.LeaksFixed = c, l
	}
	if cerr := im.Close(context.Background()); cerr != nil {
		t.Error("close:", cerr)
	}
	if err != nil {
		run.fail = "Check failed: " + words.Text(err)
		return run
	}
	opt := func(n int64) *int64 {
		if n == 0 {
			return nil
		}
		return &n
	}
	run.result = qapi.ImageCheck{CheckErrors: res.CheckErrors, ImageEndOffset: opt(res.ImageEndOffset),
		Corruptions: opt(res.Corruptions), CorruptionsFixed: opt(res.CorruptionsFixed),
		Leaks: opt(res.Leaks), LeaksFixed: opt(res.LeaksFixed), TotalClusters: opt(res.TotalClusters),
		AllocatedClusters: opt(res.AllocatedClusters), FragmentedClusters: opt(res.FragmentedClusters),
		CompressedClusters: opt(res.CompressedClusters)}
	return run
}

// theirCheck runs QEMU.
func theirCheck(t testing.TB, path string, args ...string) checkRun {
	t.Helper()
	p := openPatient(t, path)
	p.f.Close()
	if p.h.CryptMethod != 0 {
		args = append(args, "--object", "secret,id=s,data=abc", "--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename="+path)
	} else {
		args = append(args, path)
	}
	r := runTool(t, "qemu-img", append([]string{"check", "--output=json"}, args...)...)
	var run checkRun
	for _, l := range strings.Split(strings.TrimRight(r.stderr, "\n"), "\n") {
		if m, ok := strings.CutPrefix(l, "qemu-img: Check failed: "); ok {
			run.fail = "Check failed: " + m
		} else if m, ok := strings.CutPrefix(l, "qemu-img: Could not open '"+path+"': "); ok {
			run.fail = m
		} else if l != "" && l != "qemu-img: Check failed" {
			run.lines = append(run.lines, strings.TrimPrefix(l, "qemu-img: "))
		}
	}
	if run.fail == "" {
		run.result = parseJSON[qapi.ImageCheck](t, r.stdout)
		run.result.Filename, run.result.Format = "", ""
	}
	return run
}

func (r checkRun) String() string {
	var b strings.Builder
	for _, l := range r.lines {
		fmt.Fprintln(&b, "  ", l)
	}
	v := reflect.ValueOf(r.result)
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			fmt.Fprintf(&b, " %s=%v", v.Type().Field(i).Name, f.Elem())
		} else if f.Kind() == reflect.Int64 {
			fmt.Fprintf(&b, " %s=%v", v.Type().Field(i).Name, f)
		}
	}
	return b.String() + " fail=" + r.fail
}

// runDiff shows the lines at which two runs part.
func runDiff(ours, theirs checkRun) string {
	a, b := strings.Split(ours.String(), "\n"), strings.Split(theirs.String(), "\n")
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	cut := func(l []string) string {
		rest := l[min(i, len(l)):]
		if len(rest) > 8 {
			rest = append(rest[:7:7], rest[len(rest)-1])
		}
		return strings.Join(rest, "\n")
	}
	return fmt.Sprintf("\nfrom line %d\nours\n%s\ntheirs\n%s", i+1, cut(a), cut(b))
}

func TestCheckBesideOriginal(t *testing.T) {
	t.Parallel()
	testkit.NoRace(t, "one goroutine works alone")
	needTool(t, "qemu-img")
	needTool(t, "qemu-io")
	dir := t.TempDir()
	base := damageBase(t, dir)
	for i, d := range damages {
		if testkit.Sample(i, 5) {
			t.Run(d.name, func(t *testing.T) { checkBesideOriginal(t, dir, base(d.base), d) })
		}
	}
}

// checkBesideOriginal checks and repairs a damaged image by both.
func checkBesideOriginal(t *testing.T, dir, base string, d damage) {
	damaged := filepath.Join(dir, "damaged.qcow2")
	copyTestFile(t, base, damaged)
	if d.do != nil {
		p := openPatient(t, damaged)
		d.do(p)
		p.f.Close()
	}
	found := theirCheck(t, damaged)
	if ours := ourCheck(t, damaged, driver.CheckFix{}); ours.String() != found.String() && !d.refused {
		t.Errorf("check%s", runDiff(ours, found))
	}
	// A check without a repair changes nothing: QEMU is asked once about the same bytes.
	answers := map[string]checkRun{readTestFile(t, damaged): found}
	check := func(content, path string) checkRun {
		if _, ok := answers[content]; !ok {
			answers[content] = theirCheck(t, path)
		}
		return answers[content]
	}
	for _, mode := range []string{"leaks", "all"} {
		a, b := filepath.Join(dir, "a.qcow2"), filepath.Join(dir, "b.qcow2")
		copyTestFile(t, damaged, a)
		copyTestFile(t, damaged, b)
		ours := ourCheck(t, a, driver.CheckFix{Leaks: true, Errors: mode == "all"})
		theirs := theirCheck(t, b, "-r", mode)
		if ours.String() != theirs.String() && !d.better {
			t.Errorf("check -r %s%s", mode, runDiff(ours, theirs))
		}
		// However it went, QEMU finds the same in both files.
		inA, inB := readTestFile(t, a), readTestFile(t, b)
		x, y := check(inA, a), check(inB, b)
		if x.String() != y.String() && !d.better {
			t.Errorf("after -r %s%s", mode, runDiff(x, y))
		}
		if d.better && !d.beyond && mode == "all" && (x.fail != "" || len(x.lines) > 0) {
			t.Errorf("not clean after -r %s:\n%s", mode, x)
		}
		if inA == inB || d.base == "luks" {
			continue // the same disk, or one that compare has no key for
		}
		if r := runTool(t, "qemu-img", "compare", a, b); r.code > 1 && !d.better || r.code == 1 {
			x := runTool(t, "qemu-img", "compare", damaged, b)
			if r.code == 1 || r.code != x.code {
				t.Errorf("-r %s: contents: %s%s", mode, r.stdout, r.stderr)
			}
		}
	}
}
