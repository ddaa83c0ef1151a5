//go:build !unix

package multicall

// becomeMounter does nothing: there is no FUSE here.
func becomeMounter([]string) {}
