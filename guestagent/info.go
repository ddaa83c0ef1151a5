package guestagent

import (
	"context"
	"os"
	"time"
)

type syncArgs struct {
	ID int64 `qga:"id"`
}

// Info is the reply of guest-info.
type Info struct {
	Version  string        `qga:"version"`
	Commands []CommandInfo `qga:"supported_commands"`
}

// CommandInfo is a command in the reply of guest-info.
type CommandInfo struct {
	Name            string `qga:"name"`
	Enabled         bool   `qga:"enabled"`
	SuccessResponse bool   `qga:"success-response"`
}

// HostName is the reply of guest-get-host-name.
type HostName struct {
	Name string `qga:"host-name"`
}

// infoCommands are those about the agent itself, and those that need nothing of the
// system.
func (a *Agent) infoCommands() []Command {
	syncDelimited := New("guest-sync-delimited", "1.1", "Echo a number after a byte 0xFF, to find the start of replies",
		func(_ context.Context, args syncArgs) (int64, error) {
			a.delimit = true
			return args.ID, nil
		})
	syncPlain := New("guest-sync", "0.15", "Echo a number",
		func(_ context.Context, args syncArgs) (int64, error) { return args.ID, nil })
	ping := New("guest-ping", "0.15", "Say that the agent is there",
		func(context.Context, None) (None, error) {
			a.account("guest-ping called")
			return None{}, nil
		})
	info := New("guest-info", "0.15", "Report the version and the commands",
		func(context.Context, None) (Info, error) { return a.info(), nil })
	for _, c := range []*Command{&syncDelimited, &syncPlain, &ping, &info} {
		c.WhenFrozen = true
	}
	return []Command{syncDelimited, syncPlain, ping, info,
		New("guest-get-time", "1.5", "Report the time in nanoseconds since 1970",
			func(context.Context, None) (int64, error) { return time.Now().UnixMicro() * 1000, nil }),
		New("guest-get-host-name", "2.10", "Report the host name",
			func(context.Context, None) (HostName, error) {
				name, err := os.Hostname()
				if err != nil {
					name = "localhost"
				}
				return HostName{name}, nil
			}),
	}
}

// info lists the commands as QEMU does, the last one first.
func (a *Agent) info() Info {
	info := Info{Version: a.cfg.Version, Commands: make([]CommandInfo, 0, len(a.sorted))}
	for i := len(a.sorted) - 1; i >= 0; i-- {
		c := &a.sorted[i]
		info.Commands = append(info.Commands, CommandInfo{c.Name, a.enabled(c), !c.NoReply})
	}
	return info
}
