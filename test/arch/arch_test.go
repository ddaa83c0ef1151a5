// Package arch tests which package may import which.
package arch

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/testkit"
)

const module = "github.com/cowl-disk/cowl"

type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
	Doc          string
	Name         string
	GoFiles      []string
}

func list(t *testing.T, patterns ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Deps,Doc,Name,GoFiles"}, patterns...)...)
	root, err := testkit.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// room returns the place of a package in the house, "" for the root package.
func room(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
}

// allowed says what a package may import, of this module. The longest prefix
// that matches counts.
var allowed = map[string][]string{
	"qapi":                  {},
	"opts":                  {"internal/message"},
	"block/driver":          {"opts", "qapi", "internal/message"},
	"block/drivertest":      {"block", "block/driver", "opts", "qapi", "internal/", "protocol/mem", "protocol/file", "format/raw"},
	"block":                 {"block/driver", "opts", "qapi", "internal/bufpool", "internal/zero", "internal/rangelock", "internal/resources", "internal/trace"},
	"format":                {"block/driver", "opts", "qapi", "internal/blockmap", "internal/chunks", "internal/clustertable", "internal/bufpool", "internal/zero", "internal/safeio", "internal/rangelock", "internal/resources", "internal/trace"},
	"format/vmdk":           {"internal/inflate", "block/driver", "opts", "qapi", "internal/blockmap", "internal/chunks", "internal/clustertable", "internal/bufpool", "internal/zero", "internal/safeio", "internal/rangelock", "internal/resources", "internal/trace"},
	"format/dmg":            {"block/driver", "opts", "qapi", "internal/applecrypt", "internal/chunks", "internal/bufpool"},
	"format/sparseimage":    {"block/driver", "opts", "internal/applecrypt"},
	"format/sparsebundle":   {"block/driver", "opts", "internal/applecrypt", "internal/plist"},
	"format/luks":           {"crypto/", "internal/cryptio", "block/driver", "opts", "qapi", "internal/bufpool", "internal/zero", "internal/safeio", "internal/resources", "internal/trace"},
	"format/qcow":           {"crypto/sector", "internal/cryptio", "internal/deflate", "internal/inflate", "internal/blockmap", "internal/clustertable", "block/driver", "opts", "internal/bufpool"},
	"format/qcow2":          {"internal/message", "format/qcow2/", "crypto/", "internal/cryptio", "internal/clustertable", "block/driver", "opts", "qapi", "internal/bufpool", "internal/zero", "internal/safeio", "internal/rangelock", "internal/deflate", "internal/inflate", "internal/zstd", "internal/resources", "internal/trace"},
	"protocol":              {"block/driver", "opts", "qapi", "internal/bufpool", "internal/zero", "internal/safeio", "internal/rangelock", "internal/resources", "internal/trace"},
	"protocol/nbd":          {"internal/sockaddr", "nbd/client", "nbd/wire", "nbd/tlscreds", "block/driver", "opts", "qapi", "internal/bufpool", "internal/zero", "internal/resources", "internal/trace"},
	"iscsi":                 {"internal/message"},
	"sheepdog":              {"internal/message"},
	"protocol/iscsi":        {"iscsi", "internal/bufpool", "internal/inet", "internal/readahead", "block/driver", "opts"},
	"protocol/ssh":          {"internal/sockaddr", "internal/inet", "block/driver", "opts"},
	"protocol/gluster":      {"internal/native", "internal/native/link", "block/driver", "opts"},
	"protocol/rbd":          {"internal/native", "internal/native/link", "block/driver", "opts", "qapi"},
	"protocol/vvfat":        {"internal/fat", "internal/tmpfile", "block/driver", "opts"},
	"protocol/nfs":          {"nfs", "internal/readahead", "internal/sockaddr", "internal/message", "block/driver", "opts"},
	"protocol/sheepdog":     {"sheepdog", "internal/sockaddr", "block/driver", "opts", "qapi"},
	"protocol/http":         {"internal/inet", "internal/readahead", "internal/message", "internal/tmpfile", "block/driver", "opts", "internal/zero"},
	"filter":                {"filter/pass", "block/driver", "opts", "qapi", "internal/bufpool", "internal/zero", "internal/rangelock", "internal/resources", "internal/trace"},
	"ops":                   {"block", "block/driver", "opts", "qapi", "internal/bufpool", "internal/zero", "internal/resources", "internal/trace"},
	"partition":             {},
	"ova":                   {},
	"fstree":                {"fstree", "internal/xz", "internal/tmpfile"},
	"squashfs":              {"fstree", "internal/xz", "internal/zero", "internal/tmpfile"},
	"fat":                   {"fstree", "internal/fat"},
	"ext4":                  {"fstree", "internal/zero"},
	"paxtar":                {"fstree"},
	"incus":                 {"incus/", "fstree", "squashfs", "ext4", "fat", "paxtar", "partition", "block", "block/driver", "ops", "opts", "internal/xz", "internal/zero", "internal/resources", "internal/tmpfile"},
	"incus/definition":      {},
	"incus/client":          {},
	"incus/guest":           {"incus/definition", "fstree", "paxtar"},
	"incus/source":          {"incus", "incus/definition", "fstree", "internal/tmpfile"},
	"drivers":               {"block/driver", "format/", "protocol/", "filter/"},
	"crypto":                {"crypto/", "internal/message", "internal/resources", "internal/trace"},
	"nbd":                   {"nbd/", "internal/message", "internal/inet", "internal/vsock", "internal/bufpool", "internal/zero", "internal/resources", "internal/trace"},
	"nbd/export":            {"nbd/", "block", "block/driver", "qapi", "internal/bufpool", "internal/zero", "internal/resources", "internal/trace"},
	"nbd/tlscreds":          {"block/driver"},
	"nfs":                   {"internal/oncrpc", "internal/inet", "internal/message"},
	"internal/oncrpc":       {"internal/message"},
	"internal/cryptio":      {"crypto/sector", "block/driver", "internal/bufpool", "internal/rangelock", "internal/resources", "internal/trace"},
	"internal/chunks":       {"block/driver", "internal/bufpool", "internal/inflate", "internal/resources"},
	"internal/inflate":      {},
	"internal/readahead":    {},
	"internal/fat":          {},
	"internal/plist":        {"block/driver"},
	"internal/applecrypt":   {"block/driver", "internal/bufpool"},
	"internal/clustertable": {"block/driver", "internal/zero"},
	"internal/blockmap":     {"block/driver", "internal/clustertable", "internal/bufpool"},
	"internal/bufpool":      {},
	"internal/deflate":      {"internal/huffman"},
	"internal/huffman":      {},
	"internal/inet":         {"internal/vsock", "internal/message"},
	"internal/message":      {},
	"internal/native":       {"internal/native/link", "internal/readahead", "nbd/client", "nbd/wire", "block/driver"},
	"internal/native/link":  {},
	"internal/native/serve": {"internal/native/link", "nbd/server", "nbd/wire"},
	"internal/native/ceph":  {"internal/native/link", "internal/native/serve"},
	"internal/native/gfapi": {"internal/native/link", "internal/native/serve"},
	"internal/vsock":        {},
	"internal/sockaddr":     {"internal/inet", "block/driver", "opts"},
	"internal/tmpfile":      {},
	"internal/xz":           {},
	"internal/zero":         {},
	"internal/zstd":         {"internal/huffman"},
	"internal/resources":    {},
	"internal/trace":        {},
	"internal/safeio":       {},
	"internal/rangelock":    {},
	"internal/testkit":      {"block", "block/driver", "opts", "qapi", "internal/"},
	"guestagent":            {"guestagent", "guestagent/", "internal/keyfile"},
	"internal/keyfile":      {"internal/message"},
	"internal/cli/qemuga":   {"internal/cli/words", "guestagent/", "guestagent", "internal/keyfile", "internal/version", "internal/vsock"},
	"internal/version":      {},
	"internal/cli":          {"internal/cli/", "iscsi", "protocol/iscsi", "incus", "incus/", "fstree", "ova", "internal/message", "internal/inet", "nbd/", "ops", "partition", "block", "block/driver", "opts", "qapi", "drivers", "internal/resources", "internal/trace", "internal/version"},
	"cmd":                   {"internal/cli/", "drivers", "internal/resources", "internal/trace"},
	"cmd/cowl-native":       {"internal/native/", "internal/version"},
	"":                      {"protocol/file", "protocol/caller", "block", "block/driver", "drivers", "opts", "qapi", "ops"},
	"bench":                 {},
}

func ruleFor(path string) (string, []string) {
	best, rule, found := "", []string(nil), false
	for prefix, r := range allowed {
		if (path == prefix || prefix != "" && strings.HasPrefix(path, prefix+"/")) && (len(prefix) >= len(best)) {
			best, rule, found = prefix, r, true
		}
	}
	if !found {
		return "?", nil
	}
	return best, rule
}

// TestArrows checks that imports point down only.
func TestArrows(t *testing.T) {
	for _, p := range list(t, module+"/...") {
		from := room(p.ImportPath)
		prefix, rule := ruleFor(from)
		if prefix == "?" {
			t.Errorf("%s has no place in the table of this test: say what it may import", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, module) {
				continue
			}
			to := room(imp)
			ok := false
			for _, r := range rule {
				if to == r || strings.HasSuffix(r, "/") && strings.HasPrefix(to, r) {
					ok = true
				}
			}
			if !ok {
				t.Errorf("%s must not import %s", p.ImportPath, imp)
			}
		}
	}
}

// TestFormatsNeedNoNetwork checks that a program which imports one format alone
// gets no network library with it.
func TestFormatsNeedNoNetwork(t *testing.T) {
	for _, p := range list(t, module+"/format/...", module+"/protocol/file", module+"/protocol/caller", module+"/partition", module+"/block/...") {
		for _, dep := range p.Deps {
			if dep == "net" || strings.HasPrefix(dep, "net/") || dep == "crypto/tls" {
				t.Errorf("%s depends on %s", p.ImportPath, dep)
			}
		}
	}
}

// TestStatic checks that no library that makes a program dynamic gets into those that are
// static.
func TestStatic(t *testing.T) {
	loads := false // that the one program is dynamic is seen
	for _, p := range list(t, module+"/cmd/...", module) {
		for _, dep := range p.Deps {
			switch {
			case !strings.HasPrefix(dep, "github.com/ebitengine/purego"):
			case room(p.ImportPath) == "cmd/cowl-native":
				loads = true
			default:
				t.Errorf("%s depends on %s", p.ImportPath, dep)
			}
		}
	}
	if !loads {
		t.Error("cmd/cowl-native does not depend on the library: the test looks for the wrong one")
	}
}

// TestPackageComments checks that every package says what it is.
func TestPackageComments(t *testing.T) {
	for _, p := range list(t, module+"/...") {
		if p.Doc == "" && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// TestNoInit checks that no driver registers itself.
func TestNoInit(t *testing.T) {
	out, err := exec.Command("grep", "-rnE", `^func init\(\)`, "../..", "--include=*.go").Output()
	if len(out) > 0 {
		t.Errorf("init functions: %s", out)
	} else if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != 1 {
		t.Fatal(err)
	}
}

// TestNoDriverNames checks that packages between the drivers and the command lines do
// not ask for a driver by its name: what the name stands for is a trait in its Desc.
func TestNoDriverNames(t *testing.T) {
	var names []string
	for _, d := range drivers.All() {
		if name := d.Desc().Name; name != "file" { // also a role
			names = append(names, regexp.QuoteMeta(name))
		}
	}
	pattern := regexp.MustCompile(`"(` + strings.Join(names, "|") + `)"|Format\(\) [!=]= "|Desc\(\)\.Name [!=]= "`)
	// The kernel's devices, the URI scheme and a family of netlink have the name of a driver.
	exempt := map[string]bool{"nbd/kernel": true, "nbd/client": true}
	for _, p := range list(t, module, module+"/block", module+"/block/driver", module+"/ops/...", module+"/nbd/...", module+"/opts", module+"/qapi") {
		if exempt[room(p.ImportPath)] {
			continue
		}
		for _, f := range p.GoFiles {
			name := filepath.Join("../..", room(p.ImportPath), f)
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for i, line := range strings.Split(string(b), "\n") {
				code, _, _ := strings.Cut(line, "//")
				if m := pattern.FindString(code); m != "" {
					t.Errorf("%s:%d names a driver: %s", name, i+1, m)
				}
			}
		}
	}
}
