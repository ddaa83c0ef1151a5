package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// ModuleRoot returns the folder of the module of cowl. The working directory is in it, or
// in the module of its tests.
func ModuleRoot() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/cowl-disk/cowl").Output()
	if err != nil {
		return "", fmt.Errorf("go list -m: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Build makes a static program of a package of cowl, such as "./cmd/cowl", in the module
// of cowl itself: the tests are a module of their own, whose versions are not those that
// users get. Flags come before the package.
func Build(out, pkg string, flags ...string) error {
	root, err := ModuleRoot()
	if err != nil {
		return err
	}
	args := append([]string{"build", "-o", out}, flags...)
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, text)
	}
	return nil
}
