package program

import "errors"

// Rule declares what a command line must not be: options that do not go together, or
// that need another one.
type Rule struct {
	// Broken says whether the command line is so, once all options are set.
	Broken func(operands []string) bool
	Says   string // the message
	// Usage: the mistake is one of form, so that --help is suggested.
	Usage bool
}

// Never declares that something must not be whatever the operands are.
func Never(broken func() bool, says string) Rule {
	return Rule{Broken: func([]string) bool { return broken() }, Says: says}
}

// Check returns an error that says which rule a command line breaks: the first one of
// the declaration.
func (c *Command) Check(operands []string) error {
	for _, r := range c.Rules {
		switch {
		case !r.Broken(operands):
		case r.Usage:
			return &UsageError{r.Says}
		default:
			return errors.New(r.Says)
		}
	}
	return nil
}
