// Package ganesha starts NFS servers of the project nfs-ganesha for tests, on Linux.
package ganesha
