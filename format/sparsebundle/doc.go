// Package sparsebundle reads the sparse bundles of macOS (".sparsebundle", of Time Machine
// and hdiutil(1); "Mac OS sparse bundle format" in the documentation of libmodi).
//
// A bundle is a folder. Info.plist, a property list, says how large the disk and how large
// a band of it is. The folder "bands" has a file for each band that is there, whose name is
// its number in hexadecimal digits. What has no band, or is behind the end of a shorter one,
// reads as zeroes. The protocol "file" opens Info.plist where the folder is named.
//
// Bands are opened when they are read, a few at a time, each through the gate. Where the
// protocol lists folders, the list says which are there. Images are read only.
//
// Package applecrypt reads encrypted bundles (key-secret), whose header is in the file "token".
//
// Locks: that of the table of open bands, which is never held across I/O.
package sparsebundle
