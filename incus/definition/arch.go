package definition

import (
	"fmt"
	"runtime"
	"slices"
)

// architecture is one that Incus knows.
type architecture struct {
	kernel  string
	aliases []string
	bits    int
}

// architectures is a function, for there are no variables that others could change.
func architectures() []architecture {
	return []architecture{
		{"i686", []string{"i386", "i586", "386", "x86", "generic_32"}, 32},
		{"x86_64", []string{"amd64", "generic_64"}, 64},
		{"armv6l", []string{"armel", "arm"}, 32},
		{"armv7l", []string{"armhf", "armhfp", "armv7a_hardfp", "armv7", "armv7a_vfpv3_hardfp"}, 32},
		{"armv8l", nil, 32},
		{"aarch64", []string{"arm64", "arm64_generic"}, 64},
		{"ppc", []string{"powerpc"}, 32},
		{"ppc64", []string{"powerpc64"}, 64},
		{"ppc64le", []string{"ppc64el"}, 64},
		{"s390x", nil, 64},
		{"mips", []string{"mipsel", "mipsle"}, 32},
		{"mips64", []string{"mips64el", "mips64le"}, 64},
		{"riscv32", nil, 32},
		{"riscv64", nil, 64},
		{"loongarch64", []string{"loong64"}, 64},
	}
}

// KernelArchitecture returns the kernel's name of an architecture that is named by any of
// its names, and whether Incus knows it.
func KernelArchitecture(name string) (string, bool) {
	a, ok := findArchitecture(name)
	return a.kernel, ok
}

func findArchitecture(name string) (architecture, bool) {
	list := architectures()
	i := slices.IndexFunc(list, func(a architecture) bool { return a.kernel == name || slices.Contains(a.aliases, name) })
	if i < 0 {
		return architecture{}, false
	}
	return list[i], true
}

// localArchitecture is that of this machine.
func localArchitecture() string {
	if name, ok := KernelArchitecture(runtime.GOARCH); ok && runtime.GOARCH != "arm" {
		return name
	}
	if runtime.GOARCH == "arm" {
		return "armv7l"
	}
	return "x86_64"
}

// mapNames are the values of mappings.architecture_map, in the order of messages.
var mapNames = [...]string{"almalinux", "alpinelinux", "altlinux", "archlinux", "centos", "debian", "gentoo", "openwrt", "plamolinux", "voidlinux", "funtoo", "slackware"}

// archMap is how a distribution names architectures, by the names of the kernel. What is
// not in it keeps its name.
func archMap(distribution string) map[string]string {
	switch distribution {
	case "alpinelinux":
		return map[string]string{"i686": "x86", "x86_64": "x86_64", "armv7l": "armv7"}
	case "altlinux":
		return map[string]string{"i686": "i586", "x86_64": "x86_64", "aarch64": "aarch64"}
	case "archlinux":
		return map[string]string{"x86_64": "x86_64", "armv7l": "armv7", "aarch64": "aarch64"}
	case "centos":
		return map[string]string{"i686": "i386"}
	case "debian":
		return map[string]string{"i686": "i386", "x86_64": "amd64", "armv7l": "armhf", "aarch64": "arm64", "ppc": "powerpc", "ppc64": "powerpc64", "ppc64le": "ppc64el"}
	case "gentoo":
		return map[string]string{"i686": "i686", "x86_64": "amd64", "armv7l": "armv7a_hardfp", "ppc": "ppc", "ppc64": "ppc64", "ppc64le": "ppc64le", "s390x": "s390x"}
	case "openwrt":
		return map[string]string{"x86_64": "x86-64", "armv7l": "armsr-armv7", "aarch64": "armsr-armv8"}
	case "plamolinux":
		return map[string]string{"i686": "x86"}
	case "voidlinux":
		return map[string]string{"i686": "i686", "x86_64": "x86_64", "armv7l": "armv7l", "aarch64": "aarch64"}
	case "funtoo":
		return map[string]string{"i686": "generic_32", "x86_64": "generic_64", "armv7l": "armv7a_vfpv3_hardfp", "aarch64": "arm64_generic"}
	case "slackware":
		return map[string]string{"i686": "i586", "x86_64": "x86_64"}
	}
	return nil
}

// mappedArchitecture is how the distribution names the image's architecture.
func (d *Definition) mappedArchitecture() (string, error) {
	name := d.Image.Architecture
	if d.Mappings.ArchitectureMap == "" {
		if mapped, ok := d.Mappings.Architectures[name]; ok {
			return mapped, nil
		}
		return name, nil
	}
	if name == "armel" { // the hardware of armv7l with another way to pass numbers
		return name, nil
	}
	names := archMap(d.Mappings.ArchitectureMap)
	if names == nil {
		return "", fmt.Errorf("architecture map isn't supported: %s", d.Mappings.ArchitectureMap)
	}
	kernel, ok := KernelArchitecture(name)
	if !ok {
		return "", fmt.Errorf("architecture isn't supported: %s", name)
	}
	if mapped, ok := names[kernel]; ok {
		return mapped, nil
	}
	return name, nil
}
