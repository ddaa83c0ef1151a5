// Package driver defines what a disk image driver implements: small
// interfaces and plain values, and nothing else. It performs no I/O.
//
// There are two kinds of node. Storage holds bytes itself (a file, an NBD
// export, memory). A Format gives meaning to the bytes of its children:
// it does not move guest data, it answers where the data is. The block layer
// (package block) does the I/O, once, for every format.
//
// Unless a comment says otherwise, offsets and lengths are bytes, ranges are
// half open, buffers belong to the caller and are not kept after the call
// returns, and every method may be called from several goroutines at once.
package driver
