//go:build !linux

package main

import "context"

// startCeph has no library of Ceph.
func (s *remoteServers) startCeph(context.Context, string) error {
	s.missing = append(s.missing, "ceph (Linux)")
	return nil
}

// startGluster has no library of Gluster.
func (s *remoteServers) startGluster(context.Context, string) error {
	s.missing = append(s.missing, "glusterfs-server (Linux)")
	return nil
}
