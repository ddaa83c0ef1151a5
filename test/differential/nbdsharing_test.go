//go:build unix

package differential

import "testing"

// TestQemuNBDSharing asks what others may do with an image that is served. That must not
// depend on who serves it.
func TestQemuNBDSharing(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	tools := needCLI(t)
	var got [2][]outcome
	var lines [][]string
	for i, program := range []string{theirs, ours} {
		dir := fixtures(t, tools)
		for _, served := range [][]string{{"-f", "raw", "raw.img"}, {"-r", "-f", "raw", "raw.img"}, {"-s", "-f", "raw", "raw.img"},
			{"-f", "qcow2", "a.qcow2"}, {"-r", "-f", "qcow2", "a.qcow2"}, {"-s", "-f", "qcow2", "a.qcow2"}} {
			_, stop := nbdServe(t, dir, program, append([]string{"-e", "2"}, served...)...)
			image := served[len(served)-2:]
			for _, command := range []string{"resize +0", "bench -w", "bench", "info", "map"} {
				var args []string
				switch command {
				case "resize +0":
					args = []string{"resize", "-f", image[0], image[1], "+0"}
				case "bench -w":
					args = append([]string{"bench", "-q", "-w", "-c", "1", "-f"}, image...)
				case "bench":
					args = append([]string{"bench", "-q", "-c", "1", "-f"}, image...)
				default:
					args = append([]string{command, "-f"}, image...)
				}
				for _, img := range []string{tools.img, tools.ours} {
					o := runNBD(t, dir, img, args...)
					if o.stdout = nbdVolatile(o.stdout); args[0] == "bench" {
						o.stdout = "" // how long it took
					}
					got[i] = append(got[i], o)
					if i == 0 {
						lines = append(lines, append(served, args...))
					}
				}
			}
			stop()
		}
	}
	for k, line := range lines {
		if a, b := got[0][k], got[1][k]; a != b {
			t.Errorf("%q\nserved by QEMU: %+v\nserved by ours:         %+v", line, a, b)
		}
	}
}
