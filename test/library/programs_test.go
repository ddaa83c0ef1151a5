package library

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

var (
	packageLine = regexp.MustCompile(`(?m)^package cowl_test$`)
	exampleFunc = regexp.MustCompile(`(?m)^func Example\w*\(\) \{$`)
	outputLines = regexp.MustCompile(`(?m)^\t// Output:\n((?:\t//.*\n)+)`)
)

// program makes a main program of an example that is a file of its own, and returns it
// and what it prints.
func program(t *testing.T, name string) (source, output string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	s := string(b)
	out := outputLines.FindStringSubmatch(s)
	if len(packageLine.FindAllString(s, -1)) != 1 || len(exampleFunc.FindAllString(s, -1)) != 1 || out == nil {
		t.Fatalf("%s: not an example in a file of its own, with output", name)
	}
	for line := range strings.Lines(out[1]) {
		output += strings.TrimPrefix(line, "\t// ")
	}
	return exampleFunc.ReplaceAllString(packageLine.ReplaceAllString(s, "package main"), "func main() {"), output
}

// TestPrograms builds each example as a program outside of the module, and runs it.
func TestPrograms(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program for each example")
	}
	examples, err := filepath.Glob("../../example_*_test.go")
	if err != nil || len(examples) < 6 {
		t.Fatalf("%d examples: %v", len(examples), err)
	}
	for _, name := range examples {
		t.Run(strings.TrimSuffix(filepath.Base(name), "_test.go"), func(t *testing.T) {
			source, want := program(t, name)
			main, bin := filepath.Join(t.TempDir(), "main.go"), filepath.Join(t.TempDir(), "program")
			if runtime.GOOS == "windows" {
				bin += ".exe"
			}
			if err := os.WriteFile(main, []byte(source), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("go", "build", "-o", bin, main).CombinedOutput(); err != nil {
				t.Fatalf("go build: %v\n%s", err, out)
			}
			got, err := exec.Command(bin).Output()
			if err != nil || string(got) != want {
				t.Errorf("printed %q, not %q (%v)", got, want, err)
			}
		})
	}
}

// TestModules: what only the tests of cowl need is not in a program that imports it.
func TestModules(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "github.com/cowl-disk/cowl").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(out)) {
		for _, bad := range []string{"rogpeppe", "go-cmp", "testscript", "rapid", "progressbar"} {
			if strings.Contains(path, bad) {
				t.Errorf("a program that imports cowl links %s", path)
			}
		}
	}
}
