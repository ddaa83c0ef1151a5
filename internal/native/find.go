package native

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/cowl-disk/cowl/block/driver"
)

// program is the name of the second program.
const program = "cowl-native"

// Variable names the environment variable with the path of the program. It is no option of
// the drivers: an image that names another one could have anything run by it.
const Variable = "COWL_NATIVE"

// find returns the path of the program: that of the environment; that beside this
// program, or in libexec/cowl beside its folder; or one that is on PATH.
func find(engine string) (string, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return "", driver.Errorf(driver.ErrUnsupported, "disks of %s need %s, which there is for Linux on amd64 and arm64 only", engine, program)
	}
	if path := os.Getenv(Variable); path != "" {
		return path, nil
	}
	where := "beside cowl"
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		dir := filepath.Dir(self)
		where = "in " + dir
		for _, path := range []string{filepath.Join(dir, program), filepath.Join(filepath.Dir(dir), "libexec", "cowl", program)} {
			if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
				return path, nil
			}
		}
	}
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	return "", driver.Errorf(driver.ErrUnsupported, "disks of %s need the program %s, which is not installed: put it %s, or its path into %s", engine, program, where, Variable)
}
