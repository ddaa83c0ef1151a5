package main

import "fmt"

// processorRows are some of the rows with so many processors for ours (GOMAXPROCS). More than the machine has
// show that nothing gets worse, in time or in memory.
func processorRows(c *config) []row {
	out, part := c.path("out.img"), c.path("part.raw")
	var list []row
	for _, what := range []struct {
		name string
		args []string
	}{
		{"convert 1 GiB of raw to qcow2", []string{"convert", "-f", "raw", "-O", "qcow2", part, out}},
		{"convert qcow2 to raw", []string{"convert", "-f", "qcow2", "-O", "raw", c.path("plain.qcow2"), out}},
		{"convert zlib qcow2 to raw", []string{"convert", "-f", "qcow2", "-O", "raw", c.path("zlib.qcow2"), out}},
		{"convert zstd qcow2 to raw", []string{"convert", "-f", "qcow2", "-O", "raw", c.path("zstd.qcow2"), out}},
		{"convert -c 64 MiB of base64, zlib", []string{"convert", "-c", "-f", "raw", "-O", "qcow2", c.path("base64.raw"), out}},
		{"convert -c 64 MiB of hex, zstd", []string{"convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", c.path("hex.raw"), out}},
	} {
		for _, n := range []int{1, 2, 4, 8, 16} {
			list = append(list, row{name: fmt.Sprintf("processors: %s, %d", what.name, n), out: out,
				original: append([]string{c.original}, what.args...),
				ours:     append([]string{"env", fmt.Sprint("GOMAXPROCS=", n), c.ours}, what.args...)})
		}
	}
	return list
}
