package program

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Completion writes a script for a shell that completes the command lines of prog,
// whose commands are given.
func Completion(w io.Writer, prog, shell string, commands []*Command) error {
	switch shell {
	case "bash":
		bash(w, prog, commands)
	case "zsh":
		zsh(w, prog, commands)
	case "fish":
		fish(w, prog, commands)
	default:
		return Usagef("Unknown shell '%s': bash, zsh and fish are supported", shell)
	}
	return nil
}

// spellings returns all spellings of the option that the help shows, with dashes.
func (o *Option) spellings() []string {
	var list []string
	for _, letter := range o.short {
		if name := "-" + string(letter); !slices.Contains(o.also, name) {
			list = append(list, name)
		}
	}
	for _, long := range o.long {
		if name := "--" + long; !slices.Contains(o.also, name) {
			list = append(list, name)
		}
	}
	return list
}

// firstLine is the help of the option, cut to one line.
func (o *Option) firstLine() string {
	line, _, _ := strings.Cut(o.Help, "\n")
	return line
}

func names(commands []*Command) string {
	var list []string
	for _, c := range commands {
		list = append(list, c.Name)
	}
	return strings.Join(list, " ")
}

func bash(w io.Writer, prog string, commands []*Command) {
	fmt.Fprintf(w, "# bash completion for %s\n_%[1]s() {\n", prog)
	fmt.Fprint(w, "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n")
	fmt.Fprintf(w, "\tif [ \"$COMP_CWORD\" -eq 1 ]; then\n\t\tCOMPREPLY=($(compgen -W '%s help version' -- \"$cur\"))\n\t\treturn\n\tfi\n", names(commands))
	fmt.Fprint(w, "\tcase \"${COMP_WORDS[1]} $prev\" in\n")
	for _, c := range commands {
		for _, o := range c.Options {
			if !o.hasArg || len(o.Values) == 0 {
				continue
			}
			var cases []string
			for _, s := range o.spellings() {
				cases = append(cases, "'"+c.Name+" "+s+"'")
			}
			fmt.Fprintf(w, "\t%s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;\n", strings.Join(cases, " | "), strings.Join(o.Values, " "))
		}
	}
	fmt.Fprint(w, "\tesac\n\tcase \"$cur\" in\n\t-*)\n\t\tcase ${COMP_WORDS[1]} in\n")
	for _, c := range commands {
		var all []string
		for _, o := range c.Options {
			all = append(all, o.spellings()...)
		}
		fmt.Fprintf(w, "\t\t%s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")) ;;\n", c.Name, strings.Join(all, " "))
	}
	fmt.Fprintf(w, "\t\tesac\n\t\t;;\n\t*) COMPREPLY=($(compgen -f -- \"$cur\")) ;;\n\tesac\n}\ncomplete -o filenames -F _%s %[1]s\n", prog)
}

// zshQuote quotes text for a specification of _arguments in single quotes.
func zshQuote(text string) string {
	return strings.NewReplacer("'", `'\''`, "[", `\[`, "]", `\]`, ":", `\:`).Replace(text)
}

func zsh(w io.Writer, prog string, commands []*Command) {
	fmt.Fprintf(w, "#compdef %s\n_%[1]s() {\n\tif (( CURRENT == 2 )); then\n\t\tlocal -a commands=(\n", prog)
	for _, c := range commands {
		fmt.Fprintf(w, "\t\t\t'%s:%s'\n", c.Name, zshQuote(c.Summary))
	}
	fmt.Fprint(w, "\t\t)\n\t\t_describe command commands\n\t\treturn\n\tfi\n\tlocal command=${words[2]}\n\tshift words\n\t(( CURRENT-- ))\n\tcase $command in\n")
	for _, c := range commands {
		fmt.Fprintf(w, "\t%s)\n\t\t_arguments -S \\\n", c.Name)
		for _, o := range c.Options {
			arg := ""
			switch {
			case o.hasArg && len(o.Values) > 0:
				arg = ":" + zshQuote(o.argName) + ":(" + strings.Join(o.Values, " ") + ")"
			case o.hasArg:
				arg = ":" + zshQuote(o.argName) + ":_files"
			}
			for _, s := range o.spellings() {
				fmt.Fprintf(w, "\t\t\t'*%s[%s]%s' \\\n", s, zshQuote(o.firstLine()), arg)
			}
		}
		fmt.Fprint(w, "\t\t\t'*:file:_files'\n\t\t;;\n")
	}
	fmt.Fprintf(w, "\tesac\n}\nif [ \"$funcstack[1]\" = _%s ]; then\n\t_%[1]s \"$@\"\nelse\n\tcompdef _%[1]s %[1]s\nfi\n", prog)
}

func fish(w io.Writer, prog string, commands []*Command) {
	quote := func(text string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(text) + "'"
	}
	fmt.Fprintf(w, "# fish completion for %s\n", prog)
	for _, c := range commands {
		fmt.Fprintf(w, "complete -c %s -n __fish_use_subcommand -f -a %s -d %s\n", prog, c.Name, quote(c.Summary))
		for _, o := range c.Options {
			line := fmt.Sprintf("complete -c %s -n '__fish_seen_subcommand_from %s'", prog, c.Name)
			for _, s := range o.spellings() {
				if long, ok := strings.CutPrefix(s, "--"); ok {
					line += " -l " + long
				} else {
					line += " -s " + s[1:]
				}
			}
			switch {
			case o.hasArg && len(o.Values) > 0:
				line += " -x -a " + quote(strings.Join(o.Values, " "))
			case o.hasArg:
				line += " -r"
			}
			fmt.Fprintf(w, "%s -d %s\n", line, quote(o.firstLine()))
		}
	}
}
