package oncrpc

import "context"

// PortmapPort is the TCP port of the port mapper (RFC 1833, section 3).
const PortmapPort = 111

const (
	portmapProgram = 100000
	portmapVersion = 2
	getPort        = 3
	protocolTCP    = 6
)

// GetPort asks a port mapper for the TCP port of a program; 0: the program is not there.
func GetPort(ctx context.Context, c *Conn, program, version uint32) (uint16, error) {
	var e Encoder
	e.Uint32(program)
	e.Uint32(version)
	e.Uint32(protocolTCP)
	e.Uint32(0)
	d, err := c.Do(ctx, &Call{XID: NewXID(), Program: portmapProgram, Version: portmapVersion, Procedure: getPort, Args: e.B, MaxReply: 64})
	if err != nil {
		return 0, err
	}
	port := d.Uint32()
	if port > 65535 {
		d.Fail()
	}
	return uint16(port), d.Err()
}
