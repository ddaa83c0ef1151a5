package ops

import (
	"math/rand/v2"
	"testing"

	"github.com/cowl-disk/cowl/internal/zero"
)

// TestRuns: the runs of a chunk cover it, take turns, and tell the truth in whole
// units of the disk.
func TestRuns(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		unit := int64(512) << r.IntN(5)
		off := r.Int64N(4) * unit
		if r.IntN(4) == 0 {
			off += r.Int64N(unit) / 512 * 512
		}
		buf := make([]byte, r.Int64N(12*unit)+1)
		for at := int64(0); at < int64(len(buf)); at += unit {
			if r.IntN(2) == 0 {
				buf[min(at+r.Int64N(unit), int64(len(buf)-1))] = 1
			}
		}
		for _, sparse := range []int64{unit, 0} {
			c := &converter{unit: unit, job: ConvertJob{Sparse: sparse}}
			var few [2]run
			list := c.runs(few[:0], buf, off)
			at, before := 0, run{}
			for i, x := range list {
				if x.n <= 0 || at+x.n > len(buf) {
					t.Fatalf("run %d of %v does not fit", i, list)
				}
				if i > 0 && x.zero == before.zero {
					t.Fatalf("runs %d and %d of %v are alike", i-1, i, list)
				}
				if end := off + int64(at+x.n); i < len(list)-1 && end%unit != 0 {
					t.Fatalf("a run ends inside a unit of %d bytes, at %d", unit, end)
				}
				for a := at; sparse > 0 && a < at+x.n; {
					// Unit by unit, as they lie on the disk.
					b := min(a+int(unit-(off+int64(a))%unit), at+x.n)
					if zero.IsZero(buf[a:b]) != x.zero {
						t.Fatalf("unit at %d of a run of %v", a, x)
					}
					a = b
				}
				at, before = at+x.n, x
			}
			if at != len(buf) || sparse == 0 && (len(list) != 1 || list[0].zero) {
				t.Fatalf("%v for %d bytes, sparse %d", list, len(buf), sparse)
			}
		}
	}
}
