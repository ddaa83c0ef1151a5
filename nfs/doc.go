// Package nfs is a client for files of NFS servers: NFS version 3 with the mount protocol
// and the port mapper (RFC 1813, RFC 1833), and NFS version 4.1 and 4.2 without them
// (RFC 8881, RFC 7862), with AUTH_SYS (RFC 5531, appendix A).
//
// A Client is a directory of a server, as mounted; files in it are opened by name. Calls
// may be made by several goroutines at once: many are under way on a connection, and
// several connections are used.
//
// # Losses
//
// While a server is not there, calls are made again, on new connections, until Config.Timeout
// has passed; then they fail. A server that asks for patience (JUKEBOX, DELAY, GRACE) is asked again within
// bounds. A call that is made again has the identifier that it had, so that a server that
// has executed it already can tell (version 3), or the slot and number of its session (version
// 4.1). A file is created exclusively, with a verifier that makes a second try recognise
// the work of the first; to remove a file that is gone at the second try is no error.
//
// Writes do not wait for the server while there is room for them, and are unstable: a server
// may hold them in memory until File.Sync. What is not committed is kept here, within a bound: reads see it, and
// it is written again when the verifier of the server shows that it was restarted in
// between, or when a write has failed. Writes whose ranges overlap are made one after the
// other.
//
// # Locks
//
// File.committing, then File.order, then File.mu; Client's and the transports' locks are held for moments only, but for
// version4.recovery, during which no other lock is held.
package nfs
