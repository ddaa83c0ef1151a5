//go:build linux

package linux

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is a local file system.
type mount struct {
	dir          string
	fstype       string
	major, minor uint32
}

// mounts lists the local file systems in the order in which they were mounted, each
// device once, at its first place.
func (s *System) mounts() ([]mount, error) {
	text, err := s.read("/proc/self/mountinfo")
	if err != nil {
		return nil, cause(err, "failed to open /proc/self/mountinfo")
	}
	var list []mount
	seen := map[[2]uint32]bool{}
	for _, line := range strings.Split(text, "\n") {
		m, source, ok := parseMount(line)
		if !ok {
			continue
		}
		if m.major == 0 {
			// A subvolume of btrfs has a number of its own: the device tells.
			if m.fstype != "btrfs" || !s.device(source, &m) {
				continue
			}
		}
		if key := [2]uint32{m.major, m.minor}; !seen[key] {
			seen[key] = true
			list = append(list, m)
		}
	}
	return list, nil
}

// parseMount reads a line of mountinfo: see proc(5).
func parseMount(line string) (m mount, source string, ok bool) {
	head, tail, ok := strings.Cut(line, " - ")
	f, g := strings.Fields(head), strings.Split(tail, " ")
	if !ok || len(f) < 5 || len(g) < 2 {
		return m, "", false
	}
	major, minor, ok := strings.Cut(f[2], ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return m, "", false
	}
	return mount{unescapeMount(f[4]), g[0], uint32(a), uint32(b)}, unescapeMount(g[1]), true
}

// unescapeMount resolves \040 and the like.
func unescapeMount(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if name[i] == '\\' && i+3 < len(name) {
			if c, err := strconv.ParseUint(name[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

// device fills in the number of a block device.
func (s *System) device(name string, m *mount) bool {
	var st unix.Stat_t
	if err := unix.Stat(s.path(name), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return false
	}
	m.major, m.minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	return true
}
