package qemuimg

import (
	"bytes"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/protocol/null"
)

func testProgram(name string) (*Program, *bytes.Buffer, *bytes.Buffer) {
	var out, errs bytes.Buffer
	return &Program{Name: name, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Drivers: []driver.Driver{null.NewCo()}}, &out, &errs
}

// TestOptions finds spellings that mean two things, and options that no help
// mentions.
func TestOptions(t *testing.T) {
	p, _, _ := testProgram("cowl")
	for _, cmd := range p.commands() {
		short, long, helped := map[byte]int{}, map[string]int{}, map[int]bool{}
		for _, o := range cmd.options {
			if o.short != 0 {
				if id, dup := short[o.short]; dup {
					t.Errorf("%s: -%c is declared twice (%d, %d)", cmd.name, o.short, id, o.id)
				}
				short[o.short] = o.id
			}
			if o.long != "" {
				if _, dup := long[o.long]; dup {
					t.Errorf("%s: --%s is declared twice", cmd.name, o.long)
				}
				long[o.long] = o.id
			}
			helped[o.id] = helped[o.id] || o.help != ""
		}
		for id, ok := range helped {
			if !ok {
				t.Errorf("%s: no help for option %d", cmd.name, id)
			}
		}
		if short['h'] != optHelp || long["help"] != optHelp || long["object"] != optObject {
			t.Errorf("%s: lacks an option that every command has", cmd.name)
		}
	}
}

func TestHelp(t *testing.T) {
	p, _, _ := testProgram("qemu-img")
	for _, cmd := range p.commands() {
		p, out, errs := testProgram("qemu-img")
		if code := p.Run(t.Context(), []string{cmd.name, "--help"}); code != 0 || errs.Len() > 0 {
			t.Errorf("%s: exit code %d, %s", cmd.name, code, errs)
		}
		if !strings.Contains(out.String(), "  qemu-img "+cmd.name+" ") {
			t.Errorf("%s: no usage in\n%s", cmd.name, out)
		}
		for _, line := range strings.Split(out.String(), "\n") {
			if len([]rune(line)) > 100 {
				t.Errorf("%s: a line of %d characters: %s", cmd.name, len([]rune(line)), line)
			}
		}
	}
}

func TestNumber(t *testing.T) {
	for text, want := range map[string]string{
		"5": "", "16": "", "0": "Invalid thing specified. Must be between 1 and 16.", "-1": "Invalid thing specified. Must be between 1 and 16.",
		"17E": "Invalid thing specified. Must be between 1 and 16.", "x": "Invalid thing specified: 'x'.", "": "Invalid thing specified: ''.",
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
