//go:build !unix

package incus

import "os"

func umask() os.FileMode { return 0 }
