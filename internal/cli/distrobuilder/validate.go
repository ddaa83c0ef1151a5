package distrobuilder

import (
	"context"
	"fmt"

	"github.com/cowl-disk/cowl/internal/cli/program"
)

func validateCommand(c *call) *program.Command {
	return &program.Command{
		Name: "validate", Summary: "Validate a definition of an Incus image",
		Usage:    []string{globalUsage, "FILENAME|-"},
		About:    "Reads a definition, with its overrides, and says what is wrong with it. It prints nothing\nwhere nothing is.",
		Options:  c.common(),
		Operands: []program.Operand{{Name: "FILENAME", Help: "the definition in YAML; - is the standard input"}},
		Examples: []string{"image.yaml", "-o image.release=13 image.yaml"},
		Rules:    []program.Rule{{Broken: func(operands []string) bool { return len(operands) != 1 }, Says: "accepts 1 arg(s), received "}},
		Run: func(_ context.Context, operands []string) int {
			text, err := c.definition(operands[0])
			if err != nil {
				return c.finish(fmt.Errorf("failed to get definition: %w", err))
			}
			_, err = c.parse(text, c.Now())
			return c.finish(err)
		},
	}
}
