//go:build linux

package guestagent

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

const mib = 1 << 20

// resident returns the resident memory of a process in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(v)[0])
			must(t, err)
			return n << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// TestMemory sends many requests: memory stays small, and does not grow. With
// COWL_LONG set it is 100,000 of them. The rate beside QEMU's agent is printed.
func TestMemory(t *testing.T) {
	n := 10_000
	if os.Getenv("COWL_LONG") != "" {
		n = 100_000
	}
	our := start(t, ours)
	first := 0
	for i := range 4 {
		t.Logf("ours: %.0f requests a second", burst(t, our, n/4))
		rss := resident(t, our.cmd.Process.Pid)
		if i == 0 {
			first = rss
		}
		if rss > 12*mib || rss > first+3*mib {
			t.Errorf("%d bytes of memory after %d requests, %d after the first quarter", rss, n/4*(i+1), first)
		}
	}
	t.Logf("%d bytes of memory after the first quarter, %d at the end", first, resident(t, our.cmd.Process.Pid))
	t.Logf("QEMU's: %.0f requests a second", burst(t, start(t, theirs(t)), n/4))
}

// burst sends requests one after the other and returns how many a second.
func burst(t *testing.T, a *agent, n int) float64 {
	t.Helper()
	must(t, a.conn.SetDeadline(time.Now().Add(10*limit)))
	r := bufio.NewReaderSize(a.conn, 256<<10)
	names := []string{"ping", "info", "get-osinfo", "network-get-interfaces", "get-fsinfo", "get-disks", "get-time"}
	begin := time.Now()
	for i := range n {
		_, err := a.conn.Write([]byte(command("guest-"+names[i%len(names)], "")))
		must(t, err)
		_, err = r.ReadSlice('\n')
		must(t, err)
	}
	return float64(n) / time.Since(begin).Seconds()
}

// TestSize holds the agent alone below 4 MiB, as its manual says.
func TestSize(t *testing.T) {
	st, err := os.Stat(ours)
	must(t, err)
	if st.Size() > 4*mib {
		t.Errorf("%d bytes", st.Size())
	}
	t.Logf("%d bytes", st.Size())
}
