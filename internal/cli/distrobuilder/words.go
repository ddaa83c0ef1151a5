package distrobuilder

import "regexp"

// capitals are the beginnings of messages, or of parts of them, that distrobuilder writes
// with a capital.
var capitals = regexp.MustCompile(`(^|: )(failed to|options need|unsupported type|architecture|index out|invalid filter|unknown cloud-init|compression method|squashfs compression|invalid compression|invalid squashfs|file type of|error while|error for)`)

// types are the names that distrobuilder gives the parts of definitions, by ours.
var types = map[string]string{"Definition": "Definition", "Image": "DefinitionImage", "Source": "DefinitionSource", "File": "DefinitionFile", "FileTemplate": "DefinitionFileTemplate",
	"Packages": "DefinitionPackages", "PackageSet": "DefinitionPackagesSet", "Repository": "DefinitionPackagesRepository", "CustomManager": "DefinitionPackagesCustomManager",
	"Command": "CustomManagerCmd", "Action": "DefinitionAction", "Mappings": "DefinitionMappings", "Environment": "DefinitionEnv", "Variable": "DefinitionEnvVars",
	"Targets": "DefinitionTarget", "TargetIncus": "DefinitionTargetIncus", "VM": "DefinitionTargetIncusVM", "TargetLXC": "DefinitionTargetLXC", "LXCConfig": "DefinitionTargetLXCConfig"}

var typeName = regexp.MustCompile(`\bdefinition\.(\w+)`)

// flags are what getopt says about options, and what distrobuilder does.
var flags = []struct {
	says *regexp.Regexp
	word string
}{
	{regexp.MustCompile(`^[\w -]+: unrecognized option '(.*)'$`), "unknown flag: $1"},
	{regexp.MustCompile(`^[\w -]+: invalid option -- '(.)'$`), "unknown shorthand flag: '$1' in -$1"},
	{regexp.MustCompile(`^[\w -]+: option '(.*)' requires an argument$`), "flag needs an argument: $1"},
	{regexp.MustCompile(`^[\w -]+: option requires an argument -- '(.)'$`), "flag needs an argument: '$1' in -$1"},
}

// flagWords is a mistake in options in the words of distrobuilder.
func flagWords(text string) string {
	for _, f := range flags {
		if f.says.MatchString(text) {
			return f.says.ReplaceAllString(text, f.word)
		}
	}
	return text
}

// capitalised is an error's text in the words of distrobuilder.
func capitalised(text string) string {
	text = typeName.ReplaceAllStringFunc(text, func(s string) string {
		if name := types[s[len("definition."):]]; name != "" {
			return "shared." + name
		}
		return s
	})
	return capitals.ReplaceAllStringFunc(text, func(s string) string {
		b := []byte(s)
		for i := range b {
			if b[i] >= 'a' && b[i] <= 'z' {
				b[i] -= 'a' - 'A'
				break
			}
		}
		return string(b)
	})
}
