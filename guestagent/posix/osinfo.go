//go:build unix

package posix

import (
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/internal/keyfile"
)

// OSInfo is the reply of guest-get-osinfo.
type OSInfo struct {
	KernelRelease *string `qga:"kernel-release,optional"`
	KernelVersion *string `qga:"kernel-version,optional"`
	Machine       *string `qga:"machine,optional"`
	ID            *string `qga:"id,optional"`
	Name          *string `qga:"name,optional"`
	PrettyName    *string `qga:"pretty-name,optional"`
	Version       *string `qga:"version,optional"`
	VersionID     *string `qga:"version-id,optional"`
	Variant       *string `qga:"variant,optional"`
	VariantID     *string `qga:"variant-id,optional"`
}

// ReadOSInfo reports the kernel, and what os-release below root says. The environment
// variable QGA_OS_RELEASE names another file.
func ReadOSInfo(root string) (OSInfo, error) {
	var info OSInfo
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return info, err
	}
	text := func(b []byte) *string {
		s := unix.ByteSliceToString(b)
		return &s
	}
	info.KernelRelease, info.KernelVersion, info.Machine = text(u.Release[:]), text(u.Version[:]), text(u.Machine[:])
	names := []string{filepath.Join(root, "/etc/os-release"), filepath.Join(root, "/usr/lib/os-release")}
	if name, ok := os.LookupEnv("QGA_OS_RELEASE"); ok {
		names = []string{name}
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil || !utf8.Valid(data) {
			continue
		}
		f, err := keyfile.Parse("[os-release]\n" + string(data))
		if err != nil {
			continue
		}
		for key, field := range map[string]**string{"ID": &info.ID, "NAME": &info.Name, "PRETTY_NAME": &info.PrettyName,
			"VERSION": &info.Version, "VERSION_ID": &info.VersionID, "VARIANT": &info.Variant, "VARIANT_ID": &info.VariantID} {
			if v, ok := f.Value("os-release", key); ok {
				v = unquoteOSRelease(v)
				*field = &v
			}
		}
		break
	}
	return info, nil
}

// unquoteOSRelease reads a value as QEMU does: in double quotes with escape sequences,
// or up to a space or semicolon.
func unquoteOSRelease(v string) string {
	if !strings.HasPrefix(v, `"`) {
		v, _, _ = strings.Cut(v, " ")
		v, _, _ = strings.Cut(v, ";")
		return v
	}
	var b strings.Builder
	for i := 1; i < len(v) && v[i] != '"'; i++ {
		if v[i] == '\\' && i+1 < len(v) && strings.IndexByte("$'\"\\`", v[i+1]) >= 0 {
			i++
		}
		b.WriteByte(v[i])
	}
	return b.String()
}
