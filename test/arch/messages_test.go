package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// wordless are the folders whose messages are not those of a library: command lines and
// the guest agent, whose errors are texts of its protocol, have QEMU's words; the rest are
// tests and tools.
var wordless = []string{"internal/cli", "internal/testkit", "guestagent", "block/drivertest", "cmd", "bench", "test", "tools"}

// library calls f with each file of the libraries but their tests.
func library(t *testing.T, f func(name string, set *token.FileSet, file *ast.File)) {
	t.Helper()
	const root = "../.."
	set := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator)))
		if d.IsDir() {
			for _, w := range wordless {
				if name == w {
					return fs.SkipDir
				}
			}
			if b := d.Name(); b == "testdata" || len(b) > 2 && b[0] == '.' {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, 0)
		if err == nil {
			f(name, set, file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// formatter says whether a function takes a template last, with its arguments, and
// returns an error, as fmt.Errorf.
func formatter(f *ast.FuncType) bool {
	if f.Results == nil || f.Params == nil || len(f.Params.List) == 0 {
		return false
	}
	_, variadic := f.Params.List[len(f.Params.List)-1].Type.(*ast.Ellipsis)
	for _, r := range f.Results.List {
		if id, ok := r.Type.(*ast.Ident); ok && id.Name == "error" && variadic {
			return true
		}
	}
	return false
}

// formatters are the names of such functions in a file, local ones included.
func formatters(file *ast.File) map[string]bool {
	names := map[string]bool{"Errorf": true, "New": true}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if formatter(n.Type) {
				names[n.Name.Name] = true
			}
		case *ast.AssignStmt:
			for i, r := range n.Rhs {
				if lit, ok := r.(*ast.FuncLit); ok && formatter(lit.Type) {
					if id, ok := n.Lhs[i].(*ast.Ident); ok {
						names[id.Name] = true
					}
				}
			}
		}
		return true
	})
	return names
}

// text returns the string that an expression begins with.
func text(e ast.Expr) (string, bool) {
	if b, ok := e.(*ast.BinaryExpr); ok {
		s, ok := text(b.X)
		return s + "…", ok
	}
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(l.Value)
	return s, err == nil
}

// messages calls f with each template of an error in a file: where an error is made,
// and where a type of error gives its template.
func messages(file *ast.File, names map[string]bool, f func(pos token.Pos, template string)) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			name := ""
			switch fun := n.Fun.(type) {
			case *ast.Ident:
				name = fun.Name
			case *ast.SelectorExpr:
				name = fun.Sel.Name
				if x, ok := fun.X.(*ast.Ident); name == "New" && (!ok || x.Name != "errors") {
					return true
				}
			}
			if !names[name] {
				return true
			}
			for _, a := range n.Args {
				if s, ok := text(a); ok {
					f(a.Pos(), s)
					break
				}
			}
		case *ast.FuncDecl:
			if n.Name.Name != "Template" || n.Recv == nil {
				return true
			}
			ast.Inspect(n, func(n ast.Node) bool {
				if e, ok := n.(ast.Expr); ok {
					if s, ok := text(e); ok {
						f(e.Pos(), s)
						return false
					}
				}
				return true
			})
		}
		return true
	})
}

// wrong says what is wrong with the style of a message, "" if nothing is.
func wrong(template string) string {
	word, _, _ := strings.Cut(template, " ")
	capitals := 0
	for _, r := range word {
		if unicode.IsUpper(r) || unicode.IsDigit(r) {
			capitals++
		}
	}
	switch {
	case template == "":
		return ""
	case capitals == 1 && unicode.IsUpper(rune(template[0])):
		return "begins with a capital letter, and the first word is neither an acronym nor a name"
	case strings.ContainsAny(template[len(template)-1:], ".!\n "):
		return "ends with punctuation"
	}
	return ""
}

// TestMessages checks the style of the messages of libraries. Staticcheck sees those of
// fmt and errors only.
func TestMessages(t *testing.T) {
	byFolder := map[string]map[string]bool{}
	library(t, func(name string, _ *token.FileSet, file *ast.File) {
		dir := filepath.Dir(name)
		if byFolder[dir] == nil {
			byFolder[dir] = map[string]bool{}
		}
		for n := range formatters(file) {
			byFolder[dir][n] = true
		}
	})
	seen := 0
	library(t, func(name string, set *token.FileSet, file *ast.File) {
		messages(file, byFolder[filepath.Dir(name)], func(pos token.Pos, template string) {
			seen++
			if w := wrong(template); w != "" {
				t.Errorf("%s:%d: the message %q %s", name, set.Position(pos).Line, template, w)
			}
		})
	})
	if seen < 700 {
		t.Errorf("only %d messages were found: the test looks for the wrong calls", seen)
	}
	for template, bad := range map[string]bool{"Could not read": true, "could not read": false, "L1 table": false, "LUKS header": false,
		"could not read.": true, "CopyJob.Registry is not set": false, "A file": true, "%s: no": false, "keyslot is erased ": true} {
		if (wrong(template) != "") != bad {
			t.Errorf("%q: %q", template, wrong(template))
		}
	}
}

// TestNoDeadWords checks that each message that internal/cli/words has is one of ours.
func TestNoDeadWords(t *testing.T) {
	ours := map[string]bool{}
	library(t, func(_ string, _ *token.FileSet, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok {
				if s, ok := text(l); ok {
					ours[strings.ReplaceAll(s, "%w", "%v")] = true
				}
			}
			return true
		})
	})
	found := 0
	for _, name := range []string{"table.go", "small.go"} {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, filepath.Join("../../internal/cli/words", name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		check := func(e ast.Expr) {
			s, ok := text(e)
			if !ok {
				return
			}
			found++
			if !ours[s] {
				t.Errorf("internal/cli/words/%s:%d: no library has the message %q", name, set.Position(e.Pos()).Line, s)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				check(n.Key)
			case *ast.CompositeLit:
				if _, ok := n.Type.(*ast.ArrayType); ok {
					for _, e := range n.Elts {
						check(e)
					}
				}
			}
			return true
		})
	}
	if found < 100 {
		t.Errorf("only %d messages were found in internal/cli/words", found)
	}
}
