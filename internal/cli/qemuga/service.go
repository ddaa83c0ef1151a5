package qemuga

import "slices"

// serviceArgs are the arguments that a service starts with: all options that were given
// when it was installed, but for the one that installed it. It waits for its port.
func (p *invocation) serviceArgs(args []string) []string {
	list := []string{"--daemonize", "--retry-path"}
	s := &scanner{prog: p.name, opts: slices.Concat(options, []option{serviceOption}), rest: args, wrong: func(string) {}}
	for {
		id, arg, given, ok := s.next()
		switch {
		case !ok:
			return list
		case id == serviceOption.id || id == "daemonize" || id == "retry-path":
		case given:
			list = append(list, "--"+id+"="+arg)
		default:
			list = append(list, "--"+id)
		}
	}
}
