package trace

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// capture turns all events off, and returns what they print.
func capture(t *testing.T) *strings.Builder {
	t.Helper()
	b := &strings.Builder{}
	SetOutput(b)
	off := func() {
		for i := range enabled {
			enabled[i].Store(false)
		}
	}
	off()
	t.Cleanup(func() { off(); SetOutput(os.Stderr) })
	return b
}

func TestSet(t *testing.T) {
	b := capture(t)
	BdrvCoPreadv.Log(1, 2)
	if b.Len() > 0 {
		t.Errorf("an event that is off: %q", b)
	}
	if !Set("bdrv_co_p*") || !Set("-bdrv_co_pwritev_part") {
		t.Error("patterns find nothing")
	}
	BdrvCoPreadv.Log(4096, 512)
	BdrvCoPwritev.Log(0, 512)
	FilePreadv.Log(0, 512)
	BdrvOpenCommon.LogText("x", "raw")
	if want := "bdrv_co_preadv_part offset 4096 bytes 512\n"; b.String() != want {
		t.Errorf("%q, want %q", b, want)
	}
	if Set("nosuch") || !Set("no*such") {
		t.Error("only a name can be missing")
	}
}

func TestSetFrom(t *testing.T) {
	b := capture(t)
	var missing []string
	err := SetFrom(strings.NewReader("# a comment\n\nnbd_*\n-nbd_send_request\nnosuch\n"), func(line int, name string) {
		missing = append(missing, name)
		if line != 5 {
			t.Errorf("%s is in line %d", name, line)
		}
	})
	if err != nil || !slices.Equal(missing, []string{"nosuch"}) {
		t.Fatalf("%v, %v", missing, err)
	}
	NBDSendRequest.Log(1, 2, 3, 4)
	NBDClientHandshake.LogText("a\x1b\nb")
	BdrvCoFlush.Log()
	if want := "nbd_client_handshake export name \"a\\x1b\\nb\"\n"; b.String() != want {
		t.Errorf("%q, want %q", b, want)
	}
}

// TestForms prints every event with as many values as its form takes.
func TestForms(t *testing.T) {
	b := capture(t)
	seen := map[string]bool{}
	for i, e := range events {
		if e.name == "" || seen[e.name] {
			t.Errorf("event %d: the name %q", i, e.name)
		}
		seen[e.name] = true
		enabled[i].Store(true)
		if texts := strings.Count(e.form, "%q"); texts > 0 {
			Event(i).LogText(make([]string, texts)...)
		} else {
			Event(i).Log(make([]int64, strings.Count(e.form, "%"))...)
		}
	}
	if strings.Contains(b.String(), "%!") || strings.Count(b.String(), "\n") != int(numEvents) {
		t.Errorf("forms and values do not fit:\n%s", b)
	}
}

// TestOff holds that an event which is off takes no memory.
func TestOff(t *testing.T) {
	capture(t)
	off := int64(12345)
	if n := testing.AllocsPerRun(100, func() {
		BdrvCoPreadv.Log(off, off)
		BdrvOpenCommon.LogText("x", "raw")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkOff(b *testing.B) {
	off := int64(0)
	for b.Loop() {
		BdrvCoPreadv.Log(off, 4096)
		off += 4096
	}
}
