package qemuimg

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/protocol/null"
)

func testProgram(name string) (*Program, *bytes.Buffer, *bytes.Buffer) {
	var out, errs bytes.Buffer
	streams := program.Streams{Stdin: strings.NewReader(""), Stdout: &out, Data: &out, Stderr: &errs, Screen: &errs}
	return &Program{Name: name, Streams: streams, Drivers: []driver.Driver{null.NewCo()}}, &out, &errs
}

// TestOptions finds spellings that mean two things, and options that no help
// mentions.
func TestOptions(t *testing.T) {
	p, _, _ := testProgram("cowl")
	for _, cmd := range p.Commands() {
		for _, problem := range cmd.Problems() {
			t.Error(problem)
		}
		if cmd.Name == "completion" {
			continue
		}
		for _, spelling := range []string{"-h, --help", "--object OBJDEF"} {
			if !slices.ContainsFunc(cmd.Options, func(o program.Option) bool { return o.Spelling == spelling }) {
				t.Errorf("%s: lacks %s", cmd.Name, spelling)
			}
		}
	}
}

func TestHelp(t *testing.T) {
	p, _, _ := testProgram("qemu-img")
	for _, cmd := range p.Commands() {
		p, out, errs := testProgram("qemu-img")
		if code := p.Run(t.Context(), []string{cmd.Name, "--help"}); code != 0 || errs.Len() > 0 {
			t.Errorf("%s: exit code %d, %s", cmd.Name, code, errs)
		}
		if !strings.Contains(out.String(), "  qemu-img "+cmd.Name+" ") {
			t.Errorf("%s: no usage in\n%s", cmd.Name, out)
		}
		for _, line := range strings.Split(out.String(), "\n") {
			if len([]rune(line)) > 100 {
				t.Errorf("%s: a line of %d characters: %s", cmd.Name, len([]rune(line)), line)
			}
		}
	}
}

func TestNumber(t *testing.T) {
	for text, want := range map[string]string{
		"5": "", "16": "", "0": "Invalid thing specified. Must be between 1 and 16.", "-1": "Invalid thing specified. Must be between 1 and 16.",
		"17E": "Invalid thing specified. Must be between 1 and 16.", "x": "Invalid thing specified: 'x'", "": "Invalid thing specified: ''",
	} {
		_, err := number("thing", text, 1, 16)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("number(%q): %q, want %q", text, got, want)
		}
	}
}

func TestParseSnapshot(t *testing.T) {
	for arg, want := range map[string]snapshotParam{"1": {Either: "1"}, "a=b": {Either: "a=b"}, "snapshot.id=3": {ID: "3"},
		"snapshot.name=x y": {Name: "x y"}, "snapshot.id=1,snapshot.name=x": {ID: "1", Name: "x"}} {
		if got, err := parseSnapshot(arg); err != nil || got != want {
			t.Errorf("parseSnapshot(%q) = %v, %v", arg, got, err)
		}
	}
	if got, err := parseSnapshot("snapshot.bogus=1"); err == nil {
		t.Errorf("parseSnapshot(snapshot.bogus=1) = %v", got)
	}
}
