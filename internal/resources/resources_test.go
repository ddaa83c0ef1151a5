package resources

import (
	"errors"
	"math"
	"runtime"
	"runtime/debug"
	"testing"
)

func TestWorkers(t *testing.T) {
	tests := []struct {
		name        string
		want        int
		each, total int64
		get         int
	}{
		{"room for all", 8, 1 << 20, 64 << 20, 8},
		{"as many as fit", 16, 8 << 20, 64 << 20, 8},
		{"one does not fit and is needed", 16, 128 << 20, 64 << 20, 1},
		{"no memory each", 4, 0, 64 << 20, 4},
		{"none wanted", 0, 1, 64 << 20, 1},
	}
	for _, tt := range tests {
		if got := workers(tt.want, tt.each, tt.total); got != tt.get {
			t.Errorf("%s: %d workers, want %d", tt.name, got, tt.get)
		}
	}
}

func TestWorkersWithin(t *testing.T) {
	old := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(old)
	if n := WorkersWithin(5, MaxBuffers, 2*MaxBuffers); n != 2 && Available() > 8*MaxBuffers {
		t.Errorf("%d workers, want 2", n)
	}
	debug.SetMemoryLimit(3 * MaxBuffers)
	if n := WorkersWithin(5, MaxBuffers, 2*MaxBuffers); n != 1 {
		t.Errorf("%d workers with a limit, want 1", n)
	}
}

func TestBuffers(t *testing.T) {
	for available, want := range map[int64]int64{math.MaxInt64: MaxBuffers, 100 << 20: 25 << 20, 0: minBuffers} {
		if got := buffers(available); got != want {
			t.Errorf("%d bytes available: buffers of %d, want %d", available, got, want)
		}
	}
}

func TestClaim(t *testing.T) {
	if err := Claim(1 << 20); err != nil {
		t.Errorf("1 MiB: %v", err)
	}
	if runtime.GOOS != "linux" {
		return
	}
	for _, n := range []int64{1 << 46, math.MaxInt64 - 1<<30} {
		if err := Claim(n); !errors.Is(err, ErrNoMemory) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
