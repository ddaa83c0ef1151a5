package block

import (
	"path/filepath"
	"runtime"
	"strings"
)

const filepathIsWindows = runtime.GOOS == "windows"

// hasProtocol says whether a file name starts with "scheme:".
func hasProtocol(name string) bool {
	_, _, ok := schemeOf(name)
	return ok
}

// CombinePath resolves name, which an image called base refers to, against the
// directory of that image. Absolute names and names with a protocol stay as
// they are; a base of "json:…" or without a directory cannot be resolved
// against and leaves relative names as they are too.
func CombinePath(base, name string) string {
	if !relative(name) {
		return name
	}
	if strings.HasPrefix(base, "json:") {
		return name
	}
	start := 0
	if scheme, rest, ok := schemeOf(base); ok {
		start = len(scheme) + 1
		if strings.HasPrefix(rest, "//") {
			// scheme://authority/path: never cut into the authority.
			start += 2
			if i := strings.IndexByte(base[start:], '/'); i >= 0 {
				start += i + 1
			} else {
				return base + "/" + name
			}
		}
	}
	cut := strings.LastIndexByte(base[start:], '/')
	if filepathIsWindows {
		cut = strings.LastIndexAny(base[start:], `/\`)
	}
	return base[:start+cut+1] + name
}

// relative says whether a file name depends on a directory.
func relative(name string) bool {
	return name != "" && !hasProtocol(name) && !filepath.IsAbs(name) && !strings.HasPrefix(name, "/")
}

// identity is what two names of one local file have in common, for finding
// loops in backing chains; for other names it is the name itself.
func identity(name string) string {
	if hasProtocol(name) {
		return name
	}
	if p, err := filepath.EvalSymlinks(name); err == nil {
		name = p
	}
	if p, err := filepath.Abs(name); err == nil {
		name = p
	}
	return name
}
