package program

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestKindOf(t *testing.T) {
	for name, want := range map[string]Kind{
		"qemu-img": Image, "kvm-img": Image, "qemu-img-static": Image, "cowl": Cowl, "qemu-imgx": Cowl, "img": Cowl,
		"qemu-nbd": Server, "my-nbd": Server, "nbd": Cowl, "qemu-io": IO, "qemu-ga": Agent, "qemu-ga-static": Agent,
		"qemu-storage-daemon": Daemon, "": Cowl,
	} {
		if got := KindOf(name); got != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
	for arg, want := range map[string]string{"/usr/bin/qemu-img": "qemu-img", "qemu-nbd.exe": "qemu-nbd", "": "cowl"} {
		if got := Name([]string{arg}); got != want {
			t.Errorf("%q: %q, want %q", arg, got, want)
		}
	}
}

// testCommand has one option of each kind. What is set is written to the log.
func testCommand(log *[]string) *Command {
	set := func(name string) func(string) error {
		return func(arg string) error {
			*log = append(*log, name+"="+arg)
			return nil
		}
	}
	return &Command{Name: "copy", Summary: "Copy things", Usage: []string{"[-f FMT] [-p] [-t X]", "[--object X] [-k S] [--when W] SOURCE TARGET"},
		Options: []Option{
			Func("-f, --format FMT", "the format", set("format")).Offering("raw", "qcow2"),
			Func("-p, --progress[=json]", "show progress", set("progress")),
			Func("-t, --target-format FMT", "the target's", set("target")).InFull().Also("-T", "--output-format"),
			Func("--object TYPE,id=ID,…", "an object", set("object")),
			Func("-k, --socket=PATH", "a socket", set("socket")).In("Sockets"),
			Choice("--when now|later", "--when", "the time", func(w string) { *log = append(*log, "when="+w) }, "now", "later", "never"),
		},
		Operands: []Operand{{"SOURCE", "what is copied\nfrom"}},
	}
}

func TestParse(t *testing.T) {
	for args, want := range map[string]string{
		"-f raw a b":                   "format=raw | a b",
		"--form=raw":                   "format=raw | ",
		"-p --prog --progress=json":    "progress= progress= progress=json | ",
		"-t x -T y --output-f z":       "target=x target=y target=z | ",
		"--target-f x":                 "p: unrecognized option '--target-f'",
		"--target-format x":            "target=x | ",
		"--object secret,id=a -k /s x": "object=secret,id=a socket=/s | x",
		"--socket=/a":                  "socket=/a | ",
		"--when never":                 "when=never | ",
		"--when no":                    "--when expects 'now', 'later' or 'never', not 'no'",
		"--format":                     "p: option '--format' requires an argument",
	} {
		var log []string
		operands, err := testCommand(&log).Parse("p", strings.Fields(args))
		got := strings.Join(log, " ") + " | " + strings.Join(operands, " ")
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
	if p := testCommand(new([]string)).Problems(); p != nil {
		t.Error(p)
	}
	twice := testCommand(new([]string))
	twice.Options = append(twice.Options, Func("--form, --format X", "", nil))
	if p := twice.Problems(); len(p) != 3 {
		t.Errorf("problems: %q", p)
	}
}

// TestDerived holds that whatever is made from the declarations has all options.
func TestDerived(t *testing.T) {
	c := testCommand(new([]string))
	var blocks, columns strings.Builder
	c.WriteHelp(&blocks, "prog")
	c.WriteColumns(&columns, "prog")
	texts := map[string]string{"help": blocks.String(), "columns": columns.String()}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var b strings.Builder
		if err := Completion(&b, "prog", shell, []*Command{c}); err != nil {
			t.Fatal(err)
		}
		texts[shell] = b.String()
	}
	var man strings.Builder
	if err := (&Page{Name: "prog", Summary: "Things", Commands: []*Command{c}}).WriteMan(&man); err != nil {
		t.Fatal(err)
	}
	texts["man"] = strings.ReplaceAll(man.String(), `\-`, "-")
	for kind, text := range texts {
		for _, long := range []string{"format", "progress", "target-format", "object", "socket", "when"} {
			if kind == "fish" {
				long = "-l " + long
			} else {
				long = "--" + long
			}
			if !strings.Contains(text, long) {
				t.Errorf("%s: no %s in\n%s", kind, long, text)
			}
		}
		if strings.Contains(text, "output-format") {
			t.Errorf("%s: shows a hidden spelling", kind)
		}
	}
	if err := Completion(&strings.Builder{}, "prog", "csh", nil); err == nil {
		t.Error("a script for an unknown shell")
	}
	if got := c.Synopsis(); got != "copy [-f FMT] [-p] [-t X] [--object X] [-k S] [--when W] SOURCE TARGET" {
		t.Errorf("synopsis %q", got)
	}
}

func TestQuoted(t *testing.T) {
	for want, words := range map[string][]string{"'a'": {"a"}, "'a' or 'b'": {"a", "b"}, "'a', 'b' or 'c'": {"a", "b", "c"}} {
		if got := quoted(words); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestSpellings(t *testing.T) {
	for spelling, want := range map[string]string{
		"-f, --format FMT": "f [format] FMT true", "--force": " [force]  false", "-p, --progress[=json]": "p [progress] json false",
		"-k, --socket=PATH": "k [socket] PATH true", `-b, --backing NAME|""`: `b [backing] NAME|"" true`, "-L": "L []  false",
	} {
		o := newOption(spelling, "", nil)
		if got := fmt.Sprint(o.short, " ", o.long, " ", o.argName, " ", o.hasArg); got != want {
			t.Errorf("%q: %q, want %q", spelling, got, want)
		}
	}
	if !slices.Equal(Flag(new(bool), "-a, --all", "x").Also("-b").spellingsForTest(), []string{"-a", "--all"}) {
		t.Error("hidden spellings are shown")
	}
}

func (o Option) spellingsForTest() []string { return o.spellings() }

// TestRules: the first rule that is broken is told.
func TestRules(t *testing.T) {
	var a, b bool
	c := &Command{Rules: []Rule{
		Never(func() bool { return a && b }, "a does not go with b"),
		{Broken: func(operands []string) bool { return len(operands) == 0 }, Says: "what?", Usage: true},
		Never(func() bool { return b }, "never b"),
	}}
	var usage *UsageError
	if err := c.Check(nil); !errors.As(err, &usage) || err.Error() != "what?" {
		t.Error(err)
	}
	if err := c.Check([]string{"x"}); err != nil {
		t.Error(err)
	}
	b = true
	if err := c.Check([]string{"x"}); err == nil || errors.As(err, &usage) || err.Error() != "never b" {
		t.Error(err)
	}
	a = true
	if err := c.Check(nil); err == nil || err.Error() != "a does not go with b" {
		t.Error(err)
	}
}
