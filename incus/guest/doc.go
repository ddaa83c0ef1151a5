// Package guest runs programs in a root file system: the actions and the package managers
// of definitions. It is for Linux, as root, or in a user namespace where the system has
// programs and numbers for one (newuidmap, /etc/subuid).
//
// The programs have mounts, processes, a host name and message queues of their own, all of
// which end with them, and only the environment that the definition gives them. They are
// not shut in: what runs as root is root. A tree is unpacked into a folder for them, and
// read back; the source that it came from is not changed.
//
// It uses the host's unshare (util-linux 2.38), tar (GNU) and sh.
package guest
