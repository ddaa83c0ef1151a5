package qemuimg

import (
	"fmt"
	"io"
	"strings"

	"github.com/cowl-disk/cowl/internal/cli/render"
)

const (
	// maxOfKind is how many findings of one kind a check prints. Damage to one table
	// can make millions of them.
	maxOfKind = 300
	// maxKinds bounds the kinds that are told apart: what follows counts as one more.
	maxKinds = 1000
)

// findings prints what a check finds, the first of each kind, and counts the others.
type findings struct {
	w     io.Writer
	kinds map[string]*kindCount
	order []string
}

type kindCount struct{ n int64 }

func newFindings(w io.Writer) *findings { return &findings{w: w, kinds: map[string]*kindCount{}} }

// report takes one finding.
func (f *findings) report(line string) {
	kind := kindOf(line)
	k := f.kinds[kind]
	if k == nil {
		if len(f.kinds) >= maxKinds {
			kind = "other findings"
			k = f.kinds[kind]
		}
		if k == nil {
			k = &kindCount{}
			f.kinds[kind] = k
			f.order = append(f.order, kind)
		}
	}
	if k.n++; k.n <= maxOfKind {
		fmt.Fprintln(f.w, render.PrintableLines(line))
	}
}

// end prints how many findings were left out. The line begins like those that it
// stands for, so that scripts which pick a kind of finding by its first words get the
// count too.
func (f *findings) end() {
	for _, kind := range f.order {
		if more := f.kinds[kind].n - maxOfKind; more > 0 {
			fmt.Fprintf(f.w, "%s: %d more like this\n", render.PrintableLines(kind), more)
		}
	}
}

// kindOf is a finding without what tells it from others of its kind: each word with a
// digit stands for any.
func kindOf(line string) string {
	var b strings.Builder
	for len(line) > 0 {
		end := strings.IndexFunc(line, func(r rune) bool { return r != '_' && !alnum(r) })
		if end < 0 {
			end = len(line)
		}
		switch word := line[:end]; {
		case end == 0:
			b.WriteByte(line[0])
			end = 1
		case strings.ContainsAny(word, "0123456789") && !strings.Contains(word, "_"):
			b.WriteByte('N')
		default:
			b.WriteString(word)
		}
		line = line[end:]
	}
	return b.String()
}

func alnum(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}
