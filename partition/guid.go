package partition

import (
	"encoding/binary"
	"fmt"
)

// GUID is an identifier as it is on disk: its first three parts are little-endian
// (UEFI specification, appendix A).
type GUID [16]byte

// String returns the usual form, such as C12A7328-F81F-11D2-BA4B-00A0C93EC93B for the
// type of EFI system partitions.
func (g GUID) String() string {
	return fmt.Sprintf("%08X-%04X-%04X-%X-%X", binary.LittleEndian.Uint32(g[:]), binary.LittleEndian.Uint16(g[4:]),
		binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}
