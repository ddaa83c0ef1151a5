// Package iscsi is an initiator for iSCSI (RFC 7143) and the part of SCSI that disks need
// (SPC-4, SBC-3): sessions with targets, the discovery of targets, and the commands of
// logical units.
//
// A Session is one connection to a target. Any number of commands may be under way; the
// window of the target (MaxCmdSN) holds back the rest. After the loss of the connection a
// session logs in again, with the same ISID, so that the target drops what it still has of
// the old connection, and sends the commands that were under way again, for as long as
// Config.Reconnect allows. Config.Ready sees each new connection before other commands
// do. Login stages, CHAP in both directions, header and data digests, redirections,
// unsolicited and solicited data and keep-alive are of RFC 7143 with error recovery level 0.
//
// # What a target can cost
//
// A data segment is at most as long as was announced to the target, and goes into the
// buffer of the command that asked for it, or nowhere. Texts of the login and of
// discovery, rounds of the login, redirections and retries are counted. Each wait ends
// with its context; a connection on which the target does not even answer pings is given up.
//
// # Locks
//
// conn.sendLock before conn.mu. Session.mu and conn.mu are held for moments only, never
// during I/O; conn.sendLock is held while a command or data is sent.
package iscsi
