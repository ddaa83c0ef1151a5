//go:build !linux || (!amd64 && !arm64)

package main

import (
	"fmt"
	"runtime"
)

// serveEngine tells that there are no such libraries here.
func serveEngine(string) error {
	return fmt.Errorf("the libraries of Ceph and Gluster can be used on Linux with amd64 or arm64 only, not on %s/%s", runtime.GOOS, runtime.GOARCH)
}
