//go:build !linux

package main

import "context"

// startNFS has no networks to start a server in.
func (s *remoteServers) startNFS(context.Context, string) error {
	s.missing = append(s.missing, "nfs-ganesha (Linux)")
	return nil
}
