// Package guestagent is QEMU's guest agent as a library: a host sends requests over a
// stream, and the agent answers them one after the other.
//
// An Agent is made of commands. This package has those that are the same on every
// system (sync, info, files, processes, freezing); the packages linux, freebsd and
// windows below have those that touch the system. A Command declares its arguments
// and its reply as Go structs, from which the checks of requests, the lists of the
// command line, guest-info and the manual follow.
//
// Requests and replies are those of qemu-ga, to the byte: see package qmp for the
// wire, and docs/guest-agent.md for the differences.
//
// # Freezing
//
// While file systems are frozen the agent must not write to any of them: it logs
// nothing, and runs only the commands that are marked for that state. A thaw that was
// asked for a time limit comes from a timer. Locks, in the order in which they are
// taken: Agent.run (one command at a time), then Agent.mu (the frozen state).
//
// # Bounds
//
// A request is bounded by the wire (64 MiB). Captured output and the number of
// processes that nobody asks about are bounded by Limits.
package guestagent
