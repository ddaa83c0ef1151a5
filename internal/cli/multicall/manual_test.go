package multicall

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/cli/distrobuilder"
	"github.com/cowl-disk/cowl/internal/cli/program"
)

// packerPage is the manual of the packer, whose commands are those that this program
// passes on.
func packerPage(t *testing.T) *program.Page {
	commands := (&distrobuilder.Program{Name: "cowl"}).Commands()
	var names []string
	for _, c := range commands {
		names = append(names, c.Name)
	}
	for _, c := range packs() {
		i := slices.Index(names, c.Name)
		if i < 0 {
			t.Fatalf("the packer has no command %s", c.Name)
		}
		names = slices.Delete(names, i, i+1)
	}
	if len(names) > 0 {
		t.Errorf("%q are not passed on", names)
	}
	return &program.Page{
		Name: packerName, Summary: "make images for Incus",
		Synopsis:    []string{"COMMAND [options] …"},
		Description: []string{"Makes images of containers and virtual machines for Incus, as distrobuilder does, without root. The commands of cowl for that are passed on to this program, which is looked for beside cowl and on PATH; called by the name distrobuilder it takes that program's command lines."},
		Frame:       &program.Command{}, Commands: commands,
		ExitStatus: "0 for success and 1 for an error.",
		SeeAlso:    "cowl(1)",
	}
}

// TestPackerMissing: without the packer its commands say what is missing.
func TestPackerMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, args := range [][]string{{"cowl", "pack-incus", "x", "y"}, {"cowl", "help", "validate"}, {"distrobuilder", "validate", "x"}} {
		var out, errs strings.Builder
		code := Run(t.Context(), program.Streams{Stdout: &out, Stderr: &errs}, args)
		if code != 1 || out.Len() > 0 || !strings.HasPrefix(errs.String(), args[0]+": images for Incus are made by the program cowl-incus") {
			t.Errorf("%q: %d, %q, %q", args, code, out.String(), errs.String())
		}
	}
}

// TestManuals holds that the pages in docs/man are what the declarations make. With
// COWL_UPDATE set they are written.
func TestManuals(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the agent of Linux, which has all requests, is in the manual")
	}
	const dir = "../../../docs/man"
	pages := Pages()
	pages[packerName+".1"] = packerPage(t)
	for name, page := range pages {
		var b strings.Builder
		if err := page.WriteMan(&b); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if os.Getenv("COWL_UPDATE") != "" {
			if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(file)
		if err != nil || string(have) != b.String() {
			t.Errorf("%s is not current (%v): run this test with COWL_UPDATE=1", file, err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if pages[f.Name()] == nil {
			t.Errorf("%s/%s belongs to no program", dir, f.Name())
		}
	}
}

// TestCompletionScripts lets the shells that are there read their scripts, and bash
// complete a few command lines.
func TestCompletionScripts(t *testing.T) {
	dir := t.TempDir()
	commands := Cowl(program.Streams{}).Commands()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var b strings.Builder
		if err := program.Completion(&b, "cowl", shell, commands); err != nil {
			t.Fatal(err)
		}
		script := filepath.Join(dir, shell)
		if err := os.WriteFile(script, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("%s is not installed", shell)
			continue
		}
		if out, err := exec.Command(path, "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
		if shell != "bash" {
			continue
		}
		for line, want := range map[string]string{"cowl conv": "convert", "cowl convert --chec": "--checksum", "cowl check -r a": "all", "cowl create -f qcow": "qcow2", "cowl nbd --persi": "--persistent"} {
			words := strings.Fields(line)
			args := append([]string{"-c", `. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _cowl; printf '%s\n' "${COMPREPLY[@]}"`, script}, words...)
			out, err := exec.Command(path, args...).CombinedOutput()
			if err != nil || !strings.Contains("\n"+string(out), "\n"+want+"\n") {
				t.Errorf("%q: %v, %q, want %s", line, err, out, want)
			}
		}
	}
}

// TestDeclarations finds spellings that mean two things, and options that no help shows.
func TestDeclarations(t *testing.T) {
	p := Cowl(program.Streams{})
	for _, c := range append(p.Commands(), server("cowl nbd", program.Streams{}, nil).Command()) {
		for _, problem := range c.Problems() {
			t.Error(problem)
		}
	}
}

// TestSynopses holds that the help ends with a line for each command, in which programs
// look for what they need.
func TestSynopses(t *testing.T) {
	for _, name := range []string{"qemu-img", "cowl"} {
		var out strings.Builder
		if code := Run(t.Context(), program.Streams{Stdout: &out, Stderr: &out}, []string{name, "--help"}); code != 0 {
			t.Fatalf("%s --help: exit code %d", name, code)
		}
		_, list, ok := strings.Cut(out.String(), "\nCommand syntax:\n\n")
		if !ok {
			t.Fatalf("%s: no list in\n%s", name, out.String())
		}
		for _, want := range [][]string{{"info", "-U", "--object OBJDEF", "--output"}, {"convert", "-O TGT_FMT", "-W", "-C", "--bitmaps", "--target-is-zero"}, {"map", "-U"}, {"create", "-u"}, {"measure", "--size"}, {"bitmap", "--merge SOURCE"}} {
			found := false
			for line := range strings.Lines(list) {
				if strings.HasPrefix(line, "  "+want[0]+" ") {
					found = true
					for _, w := range want[1:] {
						if !strings.Contains(line, w) {
							t.Errorf("%s: no %s in %q", name, w, line)
						}
					}
				}
			}
			if !found {
				t.Errorf("%s: no line for %s", name, want[0])
			}
		}
	}
}

func TestNotBuiltIn(t *testing.T) {
	for _, name := range []string{"qemu-storage-daemon"} {
		var out, errs strings.Builder
		code := Run(t.Context(), program.Streams{Stdout: &out, Stderr: &errs}, []string{name, "x"})
		if code != 1 || out.Len() > 0 || errs.String() != name+": not built into this version of cowl\n" {
			t.Errorf("%s: %d, %q, %q", name, code, out.String(), errs.String())
		}
	}
}
