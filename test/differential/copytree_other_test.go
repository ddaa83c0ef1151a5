//go:build !linux

package differential

import "os"

// dataAt says that all is data: nobody is asked for holes here.
func dataAt(_ *os.File, at, size int64) (start, end int64, err error) { return at, size, nil }
