package kernel

import (
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The generic netlink family of the nbd driver (linux/nbd-netlink.h).
const (
	family = "nbd"

	cmdConnect    = 1
	cmdDisconnect = 2

	attrIndex       = 1
	attrSize        = 2
	attrBlockSize   = 3
	attrTimeout     = 4 // seconds
	attrServerFlags = 5
	attrSockets     = 7

	sockItem = 1
	sockFD   = 1
)

// execute sends one command to the driver.
func execute(command uint8, build func(e *netlink.AttributeEncoder)) error {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return fmt.Errorf("netlink: %w (%w)", err, ErrUnsupported)
	}
	defer conn.Close()
	f, err := conn.GetFamily(family)
	if errors.Is(err, os.ErrNotExist) {
		return ErrUnsupported
	} else if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	e := netlink.NewAttributeEncoder()
	build(e)
	data, err := e.Encode()
	if err != nil {
		return err
	}
	_, err = conn.Execute(genetlink.Message{Header: genetlink.Header{Command: command, Version: f.Version}, Data: data}, f.ID,
		netlink.Request|netlink.Acknowledge)
	switch {
	case errors.Is(err, unix.EBUSY):
		return ErrBusy
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("the kernel requires CAP_SYS_ADMIN for this: %w", err)
	}
	return err
}

func connectNetlink(n uint32, c Config) error {
	return execute(cmdConnect, func(e *netlink.AttributeEncoder) {
		e.Uint32(attrIndex, n)
		e.Uint64(attrSize, uint64(c.Size/c.BlockSize*c.BlockSize))
		e.Uint64(attrBlockSize, uint64(c.BlockSize))
		e.Uint64(attrServerFlags, uint64(c.Flags))
		if c.Timeout > 0 {
			e.Uint64(attrTimeout, uint64(c.Timeout.Seconds()))
		}
		e.Nested(attrSockets, func(list *netlink.AttributeEncoder) error {
			for _, f := range c.Conns {
				list.Nested(sockItem, func(item *netlink.AttributeEncoder) error {
					item.Uint32(sockFD, uint32(f.Fd()))
					return nil
				})
			}
			return nil
		})
	})
}

func disconnectNetlink(n uint32) error {
	return execute(cmdDisconnect, func(e *netlink.AttributeEncoder) { e.Uint32(attrIndex, n) })
}
