//go:build unix

package incus

import (
	"os"
	"strconv"
	"strings"
)

// umask is the mask of the process. Linux tells it; where nothing does, that of most
// systems is taken: asking the kernel would change it for a moment.
func umask() os.FileMode {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0o022
	}
	_, rest, _ := strings.Cut(string(text), "\nUmask:")
	value, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	mask, err := strconv.ParseUint(value, 8, 16)
	if err != nil {
		return 0o022
	}
	return os.FileMode(mask) & 0o777
}
