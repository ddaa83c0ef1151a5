// Package ceph opens disks of Ceph with Ceph's own library, librbd, which it loads when it is
// needed: nothing has to be there to build it, and it needs no cgo. Only cowl-native
// imports it: a program with purego in it is no longer static.
//
// Functions of the library block until they are done; each blocks a thread of its own, of
// which there are as many as requests under way.
package ceph
