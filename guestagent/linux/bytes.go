//go:build linux

package linux

import "encoding/binary"

func hostUint32(p []byte) uint32       { return binary.NativeEndian.Uint32(p) }
func putHostUint32(p []byte, n uint32) { binary.NativeEndian.PutUint32(p, n) }
