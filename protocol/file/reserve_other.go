//go:build !linux

package file

func (n *node) reserveRoom(int64, int64) {}
