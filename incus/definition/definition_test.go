package definition

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// tiny is a definition with nothing that could be left out.
const tiny = `image:
  distribution: tiny
  release: 3.20
  architecture: amd64
source:
  downloader: rootfs-http
packages:
  manager: apt
mappings:
  architecture_map: debian
`

func parse(t *testing.T, text string, set ...string) *Definition {
	t.Helper()
	d, err := Parse([]byte(text), Options{Set: set, Now: time.Date(2024, 5, 6, 7, 8, 9, 0, time.FixedZone("x", 3600))})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDefaults(t *testing.T) {
	d := parse(t, tiny)
	want := Image{Distribution: "tiny", Release: "3.20", Architecture: "amd64", Expiry: "30d", Variant: "default", Serial: "20240506_0608",
		Name: defaultName, Description: defaultDescription, ArchitectureMapped: "amd64", ArchitectureKernel: "x86_64", ArchitecturePersonality: "linux64"}
	if !reflect.DeepEqual(d.Image, want) {
		t.Errorf("%+v, want %+v", d.Image, want)
	}
	if d.Targets.Type != Container {
		t.Errorf("type %q", d.Targets.Type)
	}
	for template, want := range map[string]string{
		d.Image.Name:        "tiny-3.20-amd64-default-20240506_0608",
		d.Image.Description: "Tiny 3.20 amd64 (20240506_0608)",
		"plain <&>":         "plain <&>",
		"{{ image.name }}":  "tiny-3.20-amd64-default-20240506_0608", // rendered twice
		"{% if image.variant == \"default\" %}<a>{% endif %}":               "<a>",
		"{% for a in source.keys %}x{% endfor %}{# no #}{{ targets.type }}": "container",
	} {
		if got, err := d.Render(template); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", template, got, err, want)
		}
	}
}

func TestMistakes(t *testing.T) {
	custom := "packages:\n  custom_manager:\n"
	replace := func(old, new string) string { return strings.Replace(tiny, old, new, 1) }
	for name, c := range map[string]struct{ text, says string }{
		"empty":           {"", "image.distribution may not be empty"},
		"no distribution": {replace("tiny", `" "`), "image.distribution may not be empty"},
		"downloader":      {replace("rootfs-http", "ftp"), "source.downloader must be one of [almalinux-http "},
		"manager":         {replace("apt", "rpm"), "packages.manager must be one of [apk "},
		"no manager":      {replace("packages:\n  manager: apt\n", ""), "packages.manager or packages.custom_manager needs to be set"},
		"no clean":        {replace("packages:\n  manager: apt\n", custom+"    install: {cmd: x}\n"), "packages.custom_manager requires a clean command"},
		"no install":      {replace("packages:\n  manager: apt\n", custom+"    clean: {cmd: x}\n"), "packages.custom_manager requires an install command"},
		"both managers":   {replace("  manager: apt\n", "  manager: apt\n  custom_manager: {clean: {cmd: x}}\n"), "cannot have both"},
		"generator":       {tiny + "files:\n- generator: nothing\n", "files.*.generator must be one of [dump "},
		"trigger":         {tiny + "actions:\n- trigger: never\n  action: x\n", "actions.*.trigger must be one of [post-files "},
		"set":             {replace("  manager: apt\n", "  manager: apt\n  sets:\n  - action: keep\n    packages: [a]\n"), "packages.*.set.*.action must be one of [install remove]"},
		"map":             {replace("architecture_map: debian", "architecture_map: windows"), "mappings.architecture_map must be one of"},
		"map of nothing":  {replace("architecture_map: debian", "architecture_map: almalinux"), "architecture map isn't supported: almalinux"},
		"architecture":    {strings.NewReplacer("architecture: amd64", "architecture: z80", "mappings:\n  architecture_map: debian\n", "").Replace(tiny), "failed to get architecture ID: architecture isn't supported: z80"},
		"unknown key":     {tiny + "surprise: 1\n", "surprise"},
		"unknown in list": {tiny + "files:\n- generator: dump\n  owner: me\n", "owner"},
		"duplicate key":   {tiny + "image:\n  distribution: b\n", "already defined"},
		"duplicate below": {replace("  release: 3.20\n", "  release: 3.20\n  release: 4\n"), "already defined"},
		"type":            {tiny + "files:\n- generator: dump\n  types: [jail]\n", `invalid filter type "jail"`},
		"no number":       {tiny + "targets: {incus: {vm: {size: large}}}\n", "large"},
		"two documents":   {tiny + "---\n" + tiny, "more than one YAML document"},
		"no YAML":         {"a: [", "yaml"},
		"too large":       {tiny + strings.Repeat("# more\n", MaxSize/7), "larger than"},
	} {
		if d, err := Parse([]byte(c.text), Options{}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v; want %q", name, d, err, c.says)
		}
	}
}

func TestSet(t *testing.T) {
	text := strings.Replace(tiny, "  manager: apt\n", "  manager: apt\n  sets:\n  - action: install\n    packages: [a, b]\n", 1)
	d := parse(t, text, "image.release=9=x", "packages.sets.0.action=remove", "packages.sets.0.packages.1=c", "packages.sets.0.early=true",
		"targets.incus.vm.size=123456789012", "targets.incus.vm.boot_size=5", "source.skip_verification=1")
	set := d.Packages.Sets[0]
	if d.Image.Release != "9=x" || set.Action != "remove" || set.Packages[1] != "c" || !set.Early || d.Targets.Incus.VM.Size != 123456789012 ||
		d.Targets.Incus.VM.BootSize != 5 || !d.Source.SkipVerification {
		t.Errorf("%+v", d)
	}
	for option, says := range map[string]string{
		"image.release":                      "options need to be of type key=value",
		"targets.incus.vm.size=abc":          `failed to set option targets.incus.vm.size=abc: failed to parse uint "abc"`,
		"source.skip_verification=perhaps":   `failed to parse bool "perhaps"`,
		"surprise=1":                         "unsupported type 'struct'",
		"packages.sets=1":                    "unsupported type 'slice'",
		"packages.sets.1.action=install":     "index out of range",
		"packages.sets.-1.action=install":    "index out of range",
		"packages.sets.x.action=install":     "invalid syntax",
		"image.release.a=1":                  "nothing is below a value",
		"packages.sets.0.=1":                 "unsupported type 'struct'",
		"packages.custom_manager.clean.cmd=": "",
	} {
		_, err := Parse([]byte(text), Options{Set: []string{option}})
		if says == "" {
			says = "cannot have both"
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", option, err, says)
		}
	}
}

func TestFilters(t *testing.T) {
	d := parse(t, tiny)
	for name, c := range map[string]struct {
		filter         Filter
		untyped, typed bool
	}{
		"none":               {Filter{}, true, false},
		"release":            {Filter{Releases: []string{"3.19", "3.20"}}, true, false},
		"other release":      {Filter{Releases: []string{"3.19"}}, false, false},
		"architecture":       {Filter{Architectures: []string{"amd64"}}, true, false},
		"other architecture": {Filter{Architectures: []string{"x86_64"}}, false, false},
		"variant":            {Filter{Variants: []string{"default"}}, true, false},
		"other variant":      {Filter{Variants: []string{"cloud"}}, false, false},
		"container":          {Filter{Types: []Type{Container}}, false, true},
		"vm":                 {Filter{Types: []Type{VMImage}}, false, false},
		"both":               {Filter{Types: []Type{VMImage, Container}}, false, true},
	} {
		if u, ty := d.For(c.filter, Untyped), d.For(c.filter, Typed); u != c.untyped || ty != c.typed {
			t.Errorf("%s: %v %v", name, u, ty)
		}
		if got := d.For(c.filter, Untyped|Typed); got != (c.untyped || c.typed) {
			t.Errorf("%s: %v for all", name, got)
		}
	}
}

func TestActionsFor(t *testing.T) {
	d := parse(t, tiny+`actions:
- {trigger: post-files, action: "echo {{ image.release }}", pongo: true}
- {trigger: post-files, action: "echo {{ image.release }}", types: [container]}
- {trigger: post-files, action: no, types: [vm]}
- {trigger: post-unpack, action: no}
`)
	list, err := d.ActionsFor("post-files", Untyped|Typed)
	if err != nil || len(list) != 2 || list[0].Action != "echo 3.20" || list[1].Action != "echo {{ image.release }}" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestArchitectures(t *testing.T) {
	for name, want := range map[string]string{"debian i386": "i386", "debian aarch64": "arm64", "alpinelinux amd64": "x86_64", "openwrt x86_64": "x86-64",
		"debian armel": "armel", "debian riscv64": "riscv64", "gentoo armhf": "armv7a_hardfp", "archlinux arm64": "aarch64"} {
		m, arch, _ := strings.Cut(name, " ")
		d := Definition{Image: Image{Architecture: arch}, Mappings: Mappings{ArchitectureMap: m}}
		if got, err := d.mappedArchitecture(); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	d := Definition{Image: Image{Architecture: "x86_64"}, Mappings: Mappings{Architectures: map[string]string{"x86_64": "sixty-four"}}}
	if got, err := d.mappedArchitecture(); err != nil || got != "sixty-four" {
		t.Error(got, err)
	}
}

// TestHostileTemplates holds that templates neither read files nor take forever.
func TestHostileTemplates(t *testing.T) {
	secret := t.TempDir() + "/secret"
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := parse(t, tiny)
	d.Source.Keys = make([]string, 5000)
	for name, template := range map[string]string{
		"include":   `{% include "` + secret + `" %}`,
		"lazy":      `{% include image.variant|add:"` + secret + `" %}`,
		"ssi":       `{% ssi "` + secret + `" parsed %}`,
		"extends":   `{% extends "` + secret + `" %}`,
		"long":      `{{ "a"|ljust:"2000000000" }}`,
		"set":       `{% set a = "aa" %}{{ a }}`,
		"for ever":  "{{ image.name }}",
		"loops":     strings.Repeat("{% for a in source.keys %}", 9) + strings.Repeat("{% endfor %}", 9),
		"output":    "{% for a in source.keys %}" + strings.Repeat("x", 10000) + "{% endfor %}",
		"join":      `{{ source.keys|join:"` + strings.Repeat("x", 100000) + `"|length }}` + strings.Repeat("y", 20000),
		"syntax":    "{% if %}",
		"too large": strings.Repeat("{{ 1 }}", maxTemplate),
		"grows":     "{% for a in source.keys %}{{ \"{{ 1 }}\" }}{% endfor %}{{ image.name }}",
	} {
		d.Image.Name = "{{ image.name }}"
		if name == "join" {
			d.Source.Keys = make([]string, 20000)
		}
		if out, err := d.Render(template); err == nil || strings.Contains(out, "secret") {
			t.Errorf("%s: %.60q, %v", name, out, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(tiny, "image.release=1", "{{ image.release }}")
	f.Add(tiny+"files:\n- generator: dump\n  types: [vm]\n  template: {when: [create]}\n", "files.0.path=/x", "{% for a in files %}{{ a.path }}{% endfor %}")
	f.Fuzz(func(t *testing.T, text, option, template string) {
		d, err := Parse([]byte(text), Options{Set: []string{option}})
		if err != nil {
			if d, err = Parse([]byte(tiny), Options{Set: []string{option}}); err != nil {
				return
			}
		}
		if len(template) < 1000 {
			d.Render(template)
		}
		d.ActionsFor("post-files", Untyped)
	})
}

func TestNeeds(t *testing.T) {
	d := parse(t, strings.Replace(tiny, "  manager: apt\n", `  manager: apt
  repositories:
  - {name: a, url: b}
  - {name: a, url: b, types: [container]}
  sets:
  - {action: install, packages: [a], types: [vm]}
  - {action: install, packages: [a], releases: ["3.20"]}
`, 1)+`actions:
- {trigger: post-files, action: a}
- {trigger: post-files, action: a, types: [container]}
- {trigger: post-unpack, action: a}
- {trigger: post-packages, action: a, types: [container, vm]}
- {trigger: post-update, action: a, types: [container]}
`)
	for name, c := range map[string]struct {
		work          Work
		before, after string
	}{
		"pack":  {Pack, "packages.repositories.1 actions.3 (post-packages)", "actions.0 (post-files) actions.1 (post-files)"},
		"build": {Build, "packages.repositories.0 packages.repositories.1 packages.sets.1 actions.2 (post-unpack) actions.3 (post-packages)", "actions.0 (post-files) actions.1 (post-files)"},
		"dir":   {BuildDir, "packages.repositories.0 packages.sets.1 actions.2 (post-unpack)", "actions.0 (post-files)"},
	} {
		before, after := d.Needs(c.work)
		if strings.Join(before, " ") != c.before || strings.Join(after, " ") != c.after {
			t.Errorf("%s: %q, %q", name, before, after)
		}
	}
	d.Packages.Update = true
	if before, _ := d.Needs(Pack); strings.Join(before, " ") != "packages.repositories.1 packages.update actions.3 (post-packages) actions.4 (post-update)" {
		t.Errorf("%q", before)
	}
}
