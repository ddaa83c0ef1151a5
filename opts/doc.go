// Package opts holds options: how they are written (key=value lists, json:
// names, dotted keys), how drivers declare them (one Go struct with tags), and
// what follows from a declaration (decoding with checks, the text of "-o help",
// the manual).
package opts
