package qemuimg

// unsupported is a command of the original that this version does not have. It
// says so, whatever its arguments.
func unsupported(name, summary string) *command {
	return &command{
		name: name, summary: summary, missing: true,
		usage: []string{"…"},
		about: "This command is not supported yet.",
		run: func(c *call, args []string) int {
			if len(args) == 1 && (args[0] == "--help" || args[0] == "-h") {
				c.cmd.help(c.Stdout, c.Name)
				return 0
			}
			return c.errorf("The command '%s' is not supported yet", c.cmd.name)
		},
	}
}
