package getopt

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

var testSpec = []Option{
	{ID: 1, Long: "format", Short: 'f', Arg: HasArg},
	{ID: 2, Long: "force-share", Short: 'U'},
	{ID: 3, Long: "output", Arg: HasArg},
	{ID: 4, Long: "object", Arg: HasArg},
	{ID: 5, Long: "quiet", Short: 'q'},
	{ID: 6, Long: "source-opts"},
	{ID: 6, Long: "source-options"},
	{ID: 7, Long: "quick", Exact: true},
}

func TestParse(t *testing.T) {
	tests := []struct{ name, args, want, operands, err string }{
		{name: "cluster", args: "-qUfqcow2", want: "5:;2:;1:qcow2;"},
		{name: "separate value", args: "-f qcow2 a", want: "1:qcow2;", operands: "a"},
		{name: "value that looks like an option", args: "-f -q", want: "1:-q;"},
		{name: "long equals", args: "--format=raw a b", want: "1:raw;", operands: "a b"},
		{name: "long next", args: "a --format raw b", want: "1:raw;", operands: "a b"},
		{name: "long empty value", args: "--format=", want: "1:;"},
		{name: "abbreviation", args: "--forc --form x", want: "2:;1:x;"},
		{name: "abbreviation of two spellings", args: "--sou", want: "6:;"},
		{name: "exact does not make ambiguous", args: "--qui", want: "5:;"},
		{name: "exact", args: "--quick", want: "7:;"},
		{name: "end", args: "-q -- -q --x", want: "5:;", operands: "-q --x"},
		{name: "dash is an operand", args: "- -q", want: "5:;", operands: "-"},
		{name: "unknown short", args: "-qx", want: "5:;", err: "p: invalid option -- 'x'"},
		{name: "unknown long", args: "--bogus=3", err: "p: unrecognized option '--bogus'"},
		{name: "ambiguous", args: "--o x", err: "p: option '--o' is ambiguous; possibilities: '--output' '--object'"},
		{name: "missing short", args: "-f", err: "p: option requires an argument -- 'f'"},
		{name: "missing long", args: "--form", err: "p: option '--format' requires an argument"},
		{name: "unwanted", args: "--qui=1", err: "p: option '--quiet' doesn't allow an argument"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got strings.Builder
			ops, err := Parse("p", testSpec, strings.Fields(tt.args), func(id int, arg string) error {
				fmt.Fprintf(&got, "%d:%s;", id, arg)
				return nil
			}, nil)
			if got.String() != tt.want {
				t.Errorf("options %q, want %q", got.String(), tt.want)
			}
			msg := ""
			if err != nil {
				msg = err.Error()
			}
			if msg != tt.err {
				t.Errorf("error %q, want %q", msg, tt.err)
			}
			if err == nil && !slices.Equal(ops, strings.Fields(tt.operands)) {
				t.Errorf("operands %q, want %q", ops, tt.operands)
			}
		})
	}
}

func TestPosixlyCorrect(t *testing.T) {
	t.Setenv("POSIXLY_CORRECT", "1")
	ops, err := Parse("p", testSpec, []string{"-q", "a", "-f"}, func(int, string) error { return nil }, nil)
	if err != nil || !slices.Equal(ops, []string{"a", "-f"}) {
		t.Fatalf("operands %q, error %v", ops, err)
	}
}

func TestSetError(t *testing.T) {
	boom := errors.New("boom")
	calls := 0
	_, err := Parse("p", testSpec, []string{"-qU"}, func(int, string) error { calls++; return boom }, nil)
	if err != boom || calls != 1 {
		t.Fatalf("error %v after %d calls", err, calls)
	}
}
