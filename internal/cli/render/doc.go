// Package render turns what the operations return into text: the human and
// JSON output of the commands, progress, and error messages in the wording that
// users of qemu-img know. It is the one place where that wording is made.
package render
