package render

import (
	"fmt"
	"io"
	"strings"
)

const (
	// maxOfKind is how many findings of one kind a check prints. Damage to one table
	// can make millions of them.
	maxOfKind = 300
	// maxKinds bounds the kinds that are distinguished: further ones are counted together.
	maxKinds = 1000
)

// Findings prints what a check finds, the first of each kind, and counts the others. It
// is for one goroutine.
type Findings struct {
	w     io.Writer
	kinds map[string]*kindCount
	order []string
}

type kindCount struct{ n int64 }

// NewFindings starts a list of findings on w.
func NewFindings(w io.Writer) *Findings { return &Findings{w: w, kinds: map[string]*kindCount{}} }

// Report takes one finding.
func (f *Findings) Report(line string) {
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
		fmt.Fprintln(f.w, PrintableLines(line))
	}
}

// End prints how many findings were left out. The line begins like those that it
// is for, so that scripts which pick a kind of finding by its first words get the
// count too.
func (f *Findings) End() {
	for _, kind := range f.order {
		if more := f.kinds[kind].n - maxOfKind; more > 0 {
			fmt.Fprintf(f.w, "%s: %d more like this\n", PrintableLines(kind), more)
		}
	}
}

// kindOf is a finding without what tells it from others of its kind: each word with a
// digit matches any.
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
