// Package qmp is the wire format of QEMU's guest agent: a stream of JSON values in
// QEMU's own dialect, and replies in QEMU's own form.
//
// The dialect takes more than RFC 8259 (strings in single quotes, the escape \',
// modified UTF-8 in which U+0000 is the bytes C0 80) and less (no upper-case
// keywords, no noncharacters). A message is complete with its last token; no line
// end is needed, except after a bare number or keyword. After an error the reader
// resumes at the next structural character, control character, or byte FE or FF.
//
// Replies have the members of objects in the order of QEMU's hash table, which
// clients that compare text rely on. See Dict.
//
// Strings hold the bytes of modified UTF-8, as QEMU keeps them.
package qmp
