// Package rbd opens disks of Ceph: the images of RADOS block devices, as
// "rbd:pool[/namespace]/image[@snapshot][:key=value…]" (docs.ceph.com, "QEMU and block devices").
//
// Ceph's own library does the work, since placement, replication, caching and locks are its
// business. It runs in a second program, cowl-native (package internal/native). What the
// cluster has as snapshots of an image are the snapshots of the disk here.
package rbd
