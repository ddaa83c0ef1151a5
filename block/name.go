package block

import (
	"encoding/json"
	"maps"
	"strings"

	"github.com/cowl-disk/cowl/opts"
)

// runtimeOptions change how an image is used, not what its content is; they do
// not appear in names.
var runtimeOptions = map[string]bool{
	"lazy-refcounts": true, "overlap-check": true, "overlap-check.template": true,
	"cache-size": true, "l2-cache-size": true, "l2-cache-entry-size": true, "refcount-cache-size": true,
	"cache-clean-interval": true, "pass-discard-request": true, "pass-discard-snapshot": true,
	"pass-discard-other": true, "discard-no-unref": true, "locking": true, "aio": true,
	"encrypt.format": true, "drop-cache": true, "x-check-cache-dropped": true, "aio-max-batch": true,
}

// formatName names a format node: by the file name of its child where that
// opens the same again, else as json:{…}.
func formatName(img, file *Image, own, backing opts.Dict, noBacking bool) string {
	strong := len(backing) > 0 || noBacking
	for k := range own {
		if !runtimeOptions[k] && !strings.HasPrefix(k, "overlap-check.") {
			strong = true
		}
	}
	if file.format != nil {
		// A format on a format: the name of the lower one would open that alone.
		strong = true
	}
	if !strong && !strings.HasPrefix(file.name, "json:") {
		return file.name
	}
	d := opts.Dict{}
	for k, v := range own {
		if !runtimeOptions[k] {
			d[k] = v
		}
	}
	for k, v := range backing {
		d["backing."+k] = v
	}
	if noBacking {
		d["backing"] = nil
	}
	return jsonName(img, d, file)
}

// flatKey is an option that the original writes undivided and before all others.
const flatKey = "encrypt.key-secret"

// jsonName writes options as a json: name.
func jsonName(img *Image, d opts.Dict, file *Image) string {
	tree := map[string]any{"driver": img.desc.Name}
	first := ""
	for k, v := range d {
		if k == flatKey {
			if b, err := json.Marshal(map[string]any{k: v}); err == nil {
				first = string(b[1:len(b)-1]) + ","
			}
			continue
		}
		place := tree
		parts := strings.Split(k, ".")
		for _, p := range parts[:len(parts)-1] {
			next, ok := place[p].(map[string]any)
			if !ok {
				next = map[string]any{}
				place[p] = next
			}
			place = next
		}
		place[parts[len(parts)-1]] = v
	}
	if file != nil {
		var sub any = map[string]any{"driver": file.desc.Name, "filename": file.name}
		name := file.name
		if file.format != nil && !strings.HasPrefix(name, "json:") {
			// The name of a format alone would open what probing finds.
			name = jsonName(file, nil, file.File())
		}
		if rest, ok := strings.CutPrefix(name, "json:"); ok {
			sub = json.RawMessage(rest)
		}
		tree["file"] = sub
	}
	b, err := json.Marshal(maps.Clone(tree))
	if err != nil {
		return "json:{}"
	}
	return "json:{" + first + string(b[1:])
}
