package qemuga

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/cowl-disk/cowl/guestagent"
)

// run makes the agent and serves until a signal ends it.
func (p *invocation) run(ctx context.Context) int {
	c := &p.cfg
	closeOnExec()
	p.log = &logger{w: p.stderr, verbose: c.verbose, account: newAccounter()}
	if c.daemon && !isDaemon() {
		return p.daemonize()
	}
	// They are not for the programs that the agent starts.
	os.Unsetenv("LISTEN_PID")
	os.Unsetenv("LISTEN_FDS")
	p.signals = make(chan os.Signal, 4)
	err := p.underManager(func() error { return p.serve(ctx) })
	if err == nil {
		return 0
	}
	p.log.critical(err)
	p.log.critical(errors.New("error initializing guest agent"))
	return 1
}

// lines reports all but the last of the errors that QEMU reports one after the other.
func (p *invocation) lines(errs ...error) error {
	for _, err := range errs[:len(errs)-1] {
		p.log.critical(err)
	}
	return errs[len(errs)-1]
}

// serve does all; an error is one before the agent is ready.
func (p *invocation) serve(ctx context.Context) error {
	c := &p.cfg
	state, frozen, err := openState(c.statedir)
	if err != nil {
		return p.lines(err, errors.New("failed to load persistent state"))
	}
	if frozen {
		p.log.Log(guestagent.LevelWarning, fmt.Sprintf("previous instance appears to have exited with frozen filesystems. deferring logging/pidfile creation and"+
			" disabling non-fsfreeze-safe commands until guest-fsfreeze-thaw is issued, or filesystems are manually unfrozen and the file %s is removed", state.frozenPath()))
		p.log.set(nil, true)
	} else if err := p.openLog(); err != nil {
		return err
	}
	system := newSystem()
	cfg := guestagent.Config{Version: c.version, Commands: system.commands, Policy: c.policy(), Log: p.log, State: state, Limits: c.limits,
		Freezer: system.freezer, FreezeLimit: c.freezeLimit, Frozen: frozen}
	if c.hasHook {
		cfg.Hook = newHook(c.hook, c.hookLimit)
	}
	var pid pidFile
	if frozen {
		var once sync.Once
		cfg.OnThaw = func() {
			once.Do(func() {
				p.log.set(nil, false)
				if err := p.openLog(); err != nil {
					p.log.Log(guestagent.LevelWarning, err.Error())
				}
				if c.daemon {
					if err := pid.write(c.pidfile); err != nil {
						p.log.Log(guestagent.LevelWarning, err.Error())
					}
				}
			})
		}
	}
	agent := guestagent.NewAgent(cfg)
	// Signals count from now on: a daemon that is told to end removes its pid file.
	signal.Notify(p.signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(p.signals)
	ignoreBrokenPipes()
	ch, errs := openChannel(c.method, c.path, c.inherited)
	if errs != nil && !c.retry {
		return p.lines(append(errs, errors.New("failed to initialize guest agent channel"))...)
	}
	if c.daemon {
		if !frozen {
			if err := pid.write(c.pidfile); err != nil {
				// Who started the daemon does not look into its log.
				p.log.set(p.stderr, false)
				return err
			}
		}
		defer pid.remove()
		if err := detach(); err != nil {
			return err
		}
	}
	defer agent.Close()
	p.log.Log(guestagent.LevelDebug, "Guest agent version "+Version+" started")
	p.loop(context.WithoutCancel(ctx), agent, ch)
	return nil
}

// loop serves the channel until a signal comes, or it fails and is not to be opened
// again.
func (p *invocation) loop(ctx context.Context, agent *guestagent.Agent, ch channel) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for s := range p.signals {
			// Ending while frozen would leave the file systems frozen.
			if !agent.Frozen() {
				p.log.Log(guestagent.LevelDebug, fmt.Sprintf("received signal %v, quitting", s))
				cancel()
				return
			}
		}
	}()
	for {
		if ch != nil {
			stop := context.AfterFunc(ctx, ch.close)
			err := ch.serve(ctx, agent)
			stop()
			ch.close()
			ch = nil
			if ctx.Err() != nil {
				return
			}
			p.warn(agent, "error reading channel: %v", err)
		}
		if !p.cfg.retry {
			return
		}
		p.warn(agent, "waiting for channel path...")
		for ch == nil {
			if !waitForPath(ctx, p.cfg.path) {
				return
			}
			var errs []error
			if ch, errs = openChannel(p.cfg.method, p.cfg.path, p.cfg.inherited); errs != nil {
				p.warn(agent, "failed to initialize guest agent channel, will retry: %v", errs[0])
			}
		}
	}
}

func (p *invocation) warn(agent *guestagent.Agent, format string, args ...any) {
	if !agent.Frozen() {
		p.log.Log(guestagent.LevelWarning, fmt.Sprintf(format, args...))
	}
}

func (p *invocation) openLog() error {
	if !p.cfg.hasLogfile {
		return nil
	}
	f, err := os.OpenFile(p.cfg.logfile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return fmt.Errorf("unable to open specified log file: %w", guestagent.Cause(err))
	}
	p.log.set(f, false)
	return nil
}
