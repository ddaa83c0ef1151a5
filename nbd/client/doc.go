// Package client reads and writes the exports of NBD servers: of all dialects from
// oldstyle to extended headers, with TLS.
//
// A Conn has many requests under way at once, from any number of goroutines, and
// takes replies in the order in which they come. What the server says is checked:
// lengths, ranges, cookies, chunks that overlap or are missing. A server that
// breaks the rules, or goes away, ends the connection, and every request that waits
// fails with an error that wraps ErrLost.
package client
