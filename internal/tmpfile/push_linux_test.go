package tmpfile

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPushWrites: what was pushed goes to the disk soon. Left alone, the system would begin after
// half a minute.
func TestPushWrites(t *testing.T) {
	f, err := Create(t.TempDir(), "a-*")
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
	if dirty() == 0 {
		t.Skip("the system wrote by itself, or this file system is in memory")
	}
	f.Push()
	for end := time.Now().Add(10 * time.Second); dirty() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing was written")
		}
	}
}
