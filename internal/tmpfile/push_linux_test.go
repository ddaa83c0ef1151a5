package tmpfile

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPushWrites: what was pushed goes to the disk soon. Left alone, the system would begin after
// half a minute.
func TestPushWrites(t *testing.T) {
	// The folder for temporary files that outlive a start is not in memory.
	dir, err := os.MkdirTemp("/var/tmp", "cowl-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	f, err := Create(dir, "a-*")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Discard()
	dirty := func() uint64 {
		var state unix.Cachestat_t
		err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &state, 0)
		if errors.Is(err, unix.ENOSYS) {
			t.Skip("this Linux (before 6.5) does not tell what is not on the disk yet")
		}
		if err != nil {
			t.Fatal(err)
		}
		return state.Dirty
	}
	if _, err := f.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	f.Push()
	for end := time.Now().Add(10 * time.Second); dirty() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing was written")
		}
	}
}
