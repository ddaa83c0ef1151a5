// Package blkdebug is the filter that injects errors, for tests of the layers above it:
// rules say at which named event of a format which requests fail, how, and how often.
// It has the options, the configuration files, the file names ("blkdebug:CONFIG:IMAGE")
// and the events of QEMU's driver of that name (docs/devel/blkdebug in QEMU's
// documentation).
//
// The state of the filter is a number, 1 at first. An "inject-error" rule is armed when
// its event is raised in its state; the request that it fits then fails. The rules that
// an event arms replace those armed before. A "set-state" rule changes the state.
//
// Not supported: take-child-perms and unshare-child-perms, which are refused.
//
// A breakpoint (driver.Breaker) holds the next request that raises its event until it is
// told to go on.
//
// Lock order: node.mu and breaks.mu alone; neither is held while the child is called.
package blkdebug
