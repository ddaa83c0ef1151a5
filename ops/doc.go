// Package ops is the work behind each command, as library calls: convert,
// compare, map, measure, check, resize, dd, bench, checksum. It reports
// progress and findings as values and never prints.
package ops
