// Package gluster opens files of Gluster volumes, as
// "gluster[+tcp|+unix|+rdma]://[host[:port]]/volume/path[?socket=path]".
//
// Gluster's own library does the work, since where the parts of a file are, and how copies of them
// are kept equal, is its business. It runs in a second program, cowl-native (package
// internal/native), which ends with the disk: the library takes ten seconds to end by
// itself.
package gluster
