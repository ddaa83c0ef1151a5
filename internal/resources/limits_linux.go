package resources

import (
	"bytes"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// addressSpaceLeft is how much of RLIMIT_AS is not used.
func addressSpaceLeft() int64 {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_AS, &r); err != nil || r.Cur > math.MaxInt64 {
		return math.MaxInt64
	}
	used, ok := firstNumber("/proc/self/statm")
	if !ok {
		// Without /proc: what a Go program has reserved when it starts.
		return max(0, int64(r.Cur)-720<<20)
	}
	return max(0, int64(r.Cur)-used*int64(os.Getpagesize()))
}

// canReserve tells whether the process can get n bytes of address space.
func canReserve(n int64) bool {
	if n <= 0 || n != int64(int(n)) {
		return false
	}
	b, err := unix.Mmap(-1, 0, int(n), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return false
	}
	return unix.Munmap(b) == nil
}

// groupLimits are the directories of the control groups of this process, from its
// own up, that limit its memory. They do not change while it runs.
var groupLimits = sync.OnceValue(func() []string {
	text, err := readSmall("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	return limitedGroups("/sys/fs/cgroup", text)
})

// readSmall reads a file of the kernel without a poller and a finalizer for it: every command reads one when it starts.
func readSmall(name string) ([]byte, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	text := make([]byte, 0, 1024)
	for {
		n, err := unix.Read(fd, text[len(text):cap(text)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || n == 0:
			return text, err
		}
		text = slices.Grow(text[:len(text)+n], 512)
	}
}

// limitedGroups finds the directories below root that limit the memory of the
// process whose /proc/PID/cgroup is text. Only version 2 of control groups is read.
func limitedGroups(root string, text []byte) (dirs []string) {
	for line := range bytes.Lines(text) {
		name, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "0::/")
		if !ok {
			continue
		}
		for dir := path.Clean("/" + name); ; dir = path.Dir(dir) {
			if _, ok := firstNumber(root + dir + "/memory.max"); ok {
				dirs = append(dirs, root+dir)
			}
			if dir == "/" {
				return dirs
			}
		}
	}
	return nil
}

// groupLeft is how much memory the control groups of the process leave.
func groupLeft() int64 { return leftOf(groupLimits()) }

func leftOf(dirs []string) int64 {
	left := int64(math.MaxInt64)
	for _, dir := range dirs {
		limit, ok := firstNumber(dir + "/memory.max")
		used, ok2 := firstNumber(dir + "/memory.current")
		if !ok || !ok2 {
			continue
		}
		// Pages of files count as used; the kernel takes them back.
		for _, field := range []string{"inactive_file", "active_file"} {
			used -= statField(dir+"/memory.stat", field)
		}
		left = min(left, max(0, limit-max(0, used)))
	}
	return left
}

// machineLeft is how much memory the machine has for new uses, swap included.
func machineLeft() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return math.MaxInt64
	}
	left, found := int64(0), false
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "MemAvailable:" && f[0] != "SwapFree:" {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return math.MaxInt64
		}
		left += n << 10
		found = found || f[0] == "MemAvailable:"
	}
	if !found {
		return math.MaxInt64
	}
	return left
}

// firstNumber reads the number that a file begins with. A file that begins with
// something else ("max") has none.
func firstNumber(name string) (int64, bool) {
	text, err := readSmall(name)
	if err != nil {
		return 0, false
	}
	f := strings.Fields(string(text))
	if len(f) == 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(f[0], 10, 64)
	return n, err == nil
}

// statField reads one line of a file of names and numbers, 0 if it is not there.
func statField(name, field string) int64 {
	text, err := readSmall(name)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == field {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}
