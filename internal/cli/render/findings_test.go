package render

import (
	"fmt"
	"strings"
	"testing"
)

func TestFindings(t *testing.T) {
	var b strings.Builder
	f := NewFindings(&b)
	for i := range maxOfKind + 50 {
		f.Report(fmt.Sprintf("ERROR cluster %d refcount=0 reference=1", i))
		if i < 3 {
			f.Report(fmt.Sprintf("ERROR OFLAG_COPIED data cluster: l2_entry=0x%x refcount=0", i))
		}
	}
	f.End()
	if n := strings.Count(b.String(), "ERROR cluster "); n != maxOfKind+1 { // and the line with the count
		t.Errorf("%d lines of the large kind", n)
	}
	if n := strings.Count(b.String(), "ERROR OFLAG_COPIED"); n != 3 {
		t.Errorf("%d lines of the small kind", n)
	}
	if want := "\nERROR cluster N refcount=N reference=N: 50 more like this\n"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("no count at the end of\n%s", b.String()[b.Len()-200:])
	}
}

// An image cannot make the table of kinds grow without bound.
func TestFindingsKinds(t *testing.T) {
	var b strings.Builder
	f := NewFindings(&b)
	for i := range 10 * maxKinds {
		f.Report("name " + strings.Repeat("x", i))
	}
	f.End()
	if len(f.kinds) > maxKinds+1 || !strings.Contains(b.String(), "\nother findings: ") {
		t.Errorf("%d kinds", len(f.kinds))
	}
}
