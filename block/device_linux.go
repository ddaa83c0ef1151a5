package block

import (
	"io/fs"
	"os"
)

// isDevice says whether name is a block or character device. The latter have the
// size 0, as long as nothing else is known of them.
func isDevice(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode()&fs.ModeDevice != 0
}
