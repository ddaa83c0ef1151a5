//go:build !linux

package nfs

import (
	"errors"
	"syscall"
)

// control refuses what this system cannot.
func (cfg *Config) control(_, _ string, _ syscall.RawConn) error {
	if cfg.SynCount == 0 {
		return nil
	}
	return errors.New("this system cannot set how often the first packet of a connection is sent again")
}
