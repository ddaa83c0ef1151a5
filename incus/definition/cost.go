package definition

import (
	"fmt"
	"regexp"
)

// maxSteps is how many steps the loops of a template may take, or bytes a joined list.
const maxSteps = 1 << 30

var loopTag = regexp.MustCompile(`\{%-?\s*(for|endfor)\b`)

// cost fails for a template whose nested loops, or joined lists, could take more than
// maxSteps: no value can have more parts than the longest text or list has.
func cost(template string, values map[string]any) error {
	longest, list := len(template), 1
	measure(values, &longest, &list)
	depth, deepest := 0, 0
	for _, m := range loopTag.FindAllStringSubmatch(template, -1) {
		if m[1] == "for" {
			depth++
			deepest = max(deepest, depth)
		} else {
			depth--
		}
	}
	steps := int64(1)
	for range deepest {
		if steps *= int64(max(longest, list)); steps > maxSteps && deepest > 1 {
			return fmt.Errorf("%w: loops in loops over lists of up to %d parts", errTemplate, max(longest, list))
		}
	}
	if int64(longest)*int64(list) > maxSteps {
		return fmt.Errorf("%w: a list of %d parts beside a text of %d bytes", errTemplate, list, longest)
	}
	return nil
}

// measure finds the longest text and the longest list among values.
func measure(v any, longest, list *int) {
	switch v := v.(type) {
	case string:
		*longest = max(*longest, len(v))
	case []any:
		*list = max(*list, len(v))
		for _, e := range v {
			measure(e, longest, list)
		}
	case map[string]any:
		*list = max(*list, len(v))
		for _, e := range v {
			measure(e, longest, list)
		}
	}
}
