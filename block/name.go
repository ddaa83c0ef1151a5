package block

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/opts"
)

// runtime says whether an option changes how an image is used, not what its content
// is. Such options do not appear in names.
func (img *Image) runtime(key string) bool {
	o := img.desc.OpenOptions.Lookup(key)
	return o != nil && o.Runtime
}

// formatName names a format node: by the file name of its child where that
// opens the same again, else as json:{…}.
func formatName(img, file *Image, own, backing opts.Dict, noBacking bool) string {
	strong := len(backing) > 0 || noBacking
	for k := range own {
		if !img.runtime(k) {
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
		d[k] = v
	}
	for k, v := range backing {
		d["backing."+k] = v
	}
	if noBacking {
		d["backing"] = nil
	}
	return jsonName(img, d)
}

// jsonName writes the options of a node and its children as a json: name.
func jsonName(img *Image, d opts.Dict) string {
	tree := map[string]any{"driver": img.desc.Name}
	first := ""
	for k, v := range d {
		if img.runtime(k) {
			continue
		}
		if o := img.desc.OpenOptions.Lookup(k); o != nil && o.Flat {
			if b, err := json.Marshal(map[string]any{k: v}); err == nil {
				first = string(b[1:len(b)-1]) + ","
			}
			continue
		}
		place(tree, strings.Split(k, "."), v)
	}
	for _, c := range img.children {
		if desc := img.desc.Child(c.Role); desc != nil && !desc.ByDriver {
			place(tree, strings.Split(c.Role, "."), childName(c.Image))
		}
	}
	b, err := json.Marshal(lists(tree))
	if err != nil {
		return "json:{}"
	}
	return "json:{" + first + string(b[1:])
}

// childName is what stands for a child in the json: name of its parent.
func childName(child *Image) any {
	name := child.name
	if child.format != nil && !strings.HasPrefix(name, "json:") {
		// The name of a format alone would open what probing finds.
		name = jsonName(child, nil)
	}
	if rest, ok := strings.CutPrefix(name, "json:"); ok {
		return json.RawMessage(rest)
	}
	return map[string]any{"driver": child.desc.Name, "filename": name}
}

// place puts a value into a tree of maps.
func place(tree map[string]any, path []string, v any) {
	for _, p := range path[:len(path)-1] {
		next, ok := tree[p].(map[string]any)
		if !ok {
			next = map[string]any{}
			tree[p] = next
		}
		tree = next
	}
	tree[path[len(path)-1]] = v
}

// lists turns maps whose keys are 0, 1, 2 … into lists.
func lists(v any) any {
	tree, ok := v.(map[string]any)
	if !ok {
		return v
	}
	list := make([]any, 0, len(tree))
	for i := range len(tree) {
		e, ok := tree[strconv.Itoa(i)]
		if !ok {
			break
		}
		list = append(list, lists(e))
	}
	if len(tree) > 0 && len(list) == len(tree) {
		return list
	}
	for k, e := range tree {
		tree[k] = lists(e)
	}
	return tree
}
