package block

import (
	"io/fs"
	"os"
)

// isDevice says whether name is a block device.
func isDevice(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode()&fs.ModeDevice != 0 && st.Mode()&fs.ModeCharDevice == 0
}
