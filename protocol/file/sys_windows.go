package file

import (
	"io/fs"
	"os"
	"syscall"
)

// allocated is not known without further questions.
func allocated(fs.FileInfo) int64 { return -1 }

// preadOnce belongs to direct I/O, which is refused at opening.
func preadOnce(*os.File, []byte, int64) (int, error) { return 0, syscall.ENOSYS }
