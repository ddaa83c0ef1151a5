// Package native is about disks of engines that only their own client libraries can reach.
// A second program, cowl-native, loads the library; this package finds it, starts it, one
// process for each disk that is open, and has its disk as Storage. The program ends
// when the disk is closed, and when this process ends, however that happens.
//
// That the second program crashes, is killed or does not answer any more is an error of the
// requests under way, and of all later ones. Each wait ends with its context.
package native
