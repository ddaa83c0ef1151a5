package nfs

import "syscall"

// control sets how often the first packet of a connection is sent again.
func (cfg *Config) control(_, _ string, rc syscall.RawConn) error {
	if cfg.SynCount == 0 {
		return nil
	}
	var err error
	if e := rc.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_SYNCNT, cfg.SynCount)
	}); e != nil {
		return e
	}
	return err
}
