// Package gfapi opens files of Gluster volumes with Gluster's own library, libgfapi, which it loads
// when it is needed: see package ceph beside it. What a call failed with is in errno of
// the thread that made it.
package gfapi
