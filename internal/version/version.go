// Package version has the version of this build, and of QEMU whose behaviour it has.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
)

// Original is the version of QEMU whose behaviour the programs have.
// Callers read it from --version.
const Original = "11.1.3"

// Own is the version of this build: that of the module, or "devel" for a build
// that has none.
var Own = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	return versionOf(info)
})

func versionOf(info *debug.BuildInfo) string {
	v := strings.TrimPrefix(info.Main.Version, "v")
	if v == "" || v == "(devel)" {
		return "devel"
	}
	return v
}

// Full is the version of QEMU that a program replaces, with its own.
func Full() string { return Original + " (cowl " + Own() + ")" }

// Build describes what this program was built with and from.
func Build() string {
	text := fmt.Sprintf("built with %s for %s/%s", runtime.Version(), runtime.GOOS, runtime.GOARCH)
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return text
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			text += " from revision " + s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			text += ", changed"
		}
	}
	return text
}
