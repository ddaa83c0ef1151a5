// Package glusterd starts servers of Gluster for tests.
package glusterd
