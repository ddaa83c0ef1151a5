//go:build linux || darwin || windows

package file

// The bytes of a file that represent permissions: one range for those in use,
// one for those that are not shared.
const (
	lockUsed     = 100
	lockUnshared = 200
)

// permNames are the permissions, by bit.
var permNames = [...]string{"consistent read", "write", "write unchanged", "resize"}

// bytes returns the offsets of the lock bytes.
func (l locks) bytes() (at []int64) {
	for bit := range permNames {
		if l.perm>>bit&1 != 0 {
			at = append(at, lockUsed+int64(bit))
		}
	}
	for bit := range permNames {
		if l.unshared>>bit&1 != 0 {
			at = append(at, lockUnshared+int64(bit))
		}
	}
	return at
}
