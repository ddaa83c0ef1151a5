// Package sheepdog is a client for the virtual disks (VDIs) of Sheepdog clusters: objects of
// equal size on many servers, copied on write, with snapshots and clones.
//
// The protocol has no other document than the header files of the server: a request is 48
// bytes, little endian, and data; so is the reply, which names its request by a number. A
// client talks to any server of the cluster. A VDI is an object itself, the inode: it has a
// name, a size and for each data object the number of the VDI that the object belongs to;
// 0 stands for zeroes. An object of another VDI is shared with it, and is copied before it
// is changed.
//
// What a server has answered is on its disks: all requests bypass the write-back cache that
// versions before 1.0 had. So there is nothing to flush, and nothing is lost with a
// connection: requests without an answer are sent again on the next one, for as long as
// Config.Reconnect says. Only those that would do something else the second time (make,
// delete, lock) are not.
//
// Locks of this package, in their order: VDI.snapshots, VDI.mu, Client.mu, conn.mu.
//
// VDIs with store policy 1 ("hyper volumes", whose index is a tree) are refused.
package sheepdog
