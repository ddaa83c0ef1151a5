package program

import (
	"fmt"
	"io"
	"strings"
)

// Page is what a manual page says beside the declarations of the commands.
type Page struct {
	Name        string // of the program
	Section     int    // of the manual; 0 is section 1
	Summary     string
	Synopsis    []string
	Description []string // paragraphs
	Frame       *Command // options of the program itself
	Commands    []*Command
	// ExitStatus says what the exit codes mean.
	ExitStatus string
	SeeAlso    string
}

// WriteMan writes the manual page. It is the same in each build.
func (p *Page) WriteMan(w io.Writer) error {
	m := &manual{}
	m.line(".\\\" Made from the declarations of the commands: change those.")
	m.line(`.TH %s %d "" "cowl" "cowl manual"`, roff(strings.ToUpper(strings.ReplaceAll(p.Name, " ", "-"))), max(p.Section, 1))
	m.line(".SH NAME\n%s \\- %s", roff(p.Name), roff(lower(p.Summary)))
	m.line(".SH SYNOPSIS\n.nf")
	for _, s := range p.Synopsis {
		m.line("%s", roff(p.Name+" "+s))
	}
	m.line(".fi\n.SH DESCRIPTION")
	for i, d := range p.Description {
		if i > 0 {
			m.line(".PP")
		}
		m.line("%s", roff(d))
	}
	if p.Frame != nil && len(p.Frame.Options) > 0 {
		m.line(".SH OPTIONS")
		m.options(p.Frame)
	}
	if len(p.Commands) > 0 {
		m.line(".SH COMMANDS")
	}
	for _, c := range p.Commands {
		m.command(p.Name, c)
	}
	if p.ExitStatus != "" {
		m.line(".SH EXIT STATUS\n%s", roff(p.ExitStatus))
	}
	if p.SeeAlso != "" {
		m.line(".SH SEE ALSO\n%s", roff(p.SeeAlso))
	}
	_, err := io.WriteString(w, m.String())
	return err
}

// manual is the text of a page that is being made.
type manual struct{ strings.Builder }

func (m *manual) line(format string, args ...any) { fmt.Fprintf(m, format+"\n", args...) }

func (m *manual) command(prog string, c *Command) {
	m.line(".SS %s", roff(c.Name))
	m.line("%s.\n.PP\n.nf", roff(c.Summary))
	for i, u := range c.Usage {
		if i == 0 {
			u = prog + " " + c.Name + " " + u
		} else {
			u = "        " + u
		}
		m.line("%s", roff(u))
	}
	m.line(".fi")
	if c.About != "" {
		m.line(".PP\n%s", roff(c.About))
	}
	m.options(c)
	if len(c.Examples) == 0 {
		return
	}
	m.line(".PP\nExamples:\n.PP\n.nf")
	for _, e := range c.Examples {
		m.line("%s", roff("    "+prog+" "+c.Name+" "+e))
	}
	m.line(".fi")
}

func (m *manual) options(c *Command) {
	group := ""
	for _, o := range c.Options {
		if o.Group != group {
			group = o.Group
			m.line(".SS %s", roff(group))
		}
		m.line(".TP\n.B %s\n%s", roff(o.Spelling), roff(o.Help))
	}
	for _, o := range c.Operands {
		m.line(".TP\n.B %s\n%s", roff(o.Name), roff(o.Help))
	}
}

// roff escapes text for a manual page.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "…", "...").Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

func lower(text string) string { return strings.ToLower(text[:1]) + text[1:] }
