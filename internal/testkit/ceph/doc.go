// Package ceph starts clusters of Ceph for tests: one monitor and one store, which keeps all
// objects in its memory.
package ceph
