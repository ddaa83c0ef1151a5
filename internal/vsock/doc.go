// Package vsock connects virtual machines and their host: stream sockets of the
// family AF_VSOCK. An address is "cid:port"; as the cid of a listener, "" is
// any. There are such sockets on Linux only.
package vsock

import (
	"fmt"
	"strconv"
	"strings"
)

// Addr is a vsock address.
type Addr struct{ CID, Port uint32 }

// Network returns "vsock".
func (Addr) Network() string  { return "vsock" }
func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }

// anyCID is the cid of a listener that takes what comes.
const anyCID = 1<<32 - 1

// ParseAddr reads "cid:port".
func ParseAddr(s string) (Addr, error) {
	cid, port, ok := strings.Cut(s, ":")
	c := uint64(anyCID)
	var err error
	if cid != "" {
		c, err = strconv.ParseUint(cid, 10, 32)
	}
	p, perr := strconv.ParseUint(port, 10, 32)
	if !ok || err != nil || perr != nil {
		return Addr{}, fmt.Errorf("'%s' is not a vsock address", s)
	}
	return Addr{uint32(c), uint32(p)}, nil
}
