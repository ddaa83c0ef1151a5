// Package ssh reads and writes files of SSH servers as disks, over SFTP (version 3,
// draft-ietf-secsh-filexfer-02, with OpenSSH's extensions fsync@openssh.com and
// limits@openssh.com): ssh://[user@]host[:port]/path[?host_key_check=…], the same with
// sftp, and options (server.host, path, user, host-key-check.mode, …).
//
// ~/.ssh/config and the known_hosts files are those of OpenSSH, read by libraries
// (kevinburke/ssh_config, skeema/knownhosts); ~ is the home directory that the
// environment names. Of the configuration, Host, HostName, Port, User, IdentityFile,
// IdentitiesOnly, IdentityAgent, CertificateFile, UserKnownHostsFile,
// GlobalKnownHostsFile, HostKeyAlgorithms, HostKeyAlias, ProxyJump and ProxyCommand count.
//
// A large request is sent as many small ones that are under way at once. Several
// connections are used where requests come in parallel.
//
// A request ends soon after its context, whatever the server does: a connection that
// does not let go of it is closed. A connection on which nothing moves for the time-out
// is closed, too. After the loss of a connection, disks that are only read connect again;
// the file must be the same then, by its size and its time of modification. Disks that
// are written fail for good, since the server may have lost what was not flushed.
//
// # Locks
//
// node.sizeMu before node.mu; node.mu is held for moments only, never during I/O.
package ssh
