package ops_test

import (
	"errors"
	"sync"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// TestCompareOrder: the result is what comes first on the disks, though what lies behind it was
// found before: a range that cannot be read, or a difference before any such.
func TestCompareOrder(t *testing.T) {
	const size, end = 16 << 20, 4 << 20 // few enough spans that none waits for a read
	for name, c := range map[string]struct {
		unread, differs int64 // a read that begins there fails; size: nowhere
		want            int64
		fails           bool
	}{
		"neither":                        {size, size, end, true},
		"a read fails":                   {2 << 20, size, 2 << 20, true},
		"a difference":                   {size, 1 << 20, 1 << 20, false},
		"a difference before a failure":  {2 << 20, 1 << 20, 1 << 20, false},
		"a failure before a difference":  {1 << 20, 3 << 20, 1 << 20, true},
		"a difference where none can be": {size, end + 512, end, true},
	} {
		t.Run(name, func(t *testing.T) {
			d := &troubled{Driver: mem.New().(*mem.Driver)}
			w := worldOn(t, d, d.Driver)
			a, b := w.create("src", "raw", size, nil), w.create("b", "raw", size, nil)
			if c.differs < size {
				if _, err := a.WriteAt(t.Context(), []byte{1}, c.differs); err != nil {
					t.Fatal(err)
				}
			}
			wait := make(chan struct{})
			d.trouble = &trouble{mapFails: end, fails: []int64{c.unread}, later: size, wait: wait, asked: sync.OnceFunc(func() { close(wait) })}
			res, err := ops.Compare(t.Context(), a, b, ops.CompareOptions{})
			var failed *ops.CompareError
			switch {
			case c.fails && (!errors.As(err, &failed) || !errors.Is(err, syscall.EIO) || failed.Offset != c.want):
				t.Errorf("%v, %+v", err, failed)
			case !c.fails && (err != nil || res.Difference != ops.DiffContent || res.Offset != c.want):
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
}
