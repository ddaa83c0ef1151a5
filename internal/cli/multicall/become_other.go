//go:build !unix

package multicall

// become cannot replace this process here.
func become(string, []string) {}
