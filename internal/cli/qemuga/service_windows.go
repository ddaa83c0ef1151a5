package qemuga

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

const (
	serviceName        = "QEMU-GA"
	serviceDisplayName = "QEMU Guest Agent"
	serviceDescription = "Enables integration with QEMU machine emulator and virtualizer."
)

// service does what an option for the service asks for. The options before it are those
// that the service starts with.
func (p *invocation) service(command string) int {
	var err error
	switch command {
	case "install":
		err = p.install()
	case "uninstall":
		err = uninstall()
	case "vss-install", "vss-uninstall":
		err = errors.New("there is no provider of shadow copies in this program: freezing is not possible")
	default:
		fmt.Fprintln(p.stdout, "Unknown service command.")
		return 1
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "%s: service %s: %v\n", p.name, command, err)
		return 1
	}
	return 0
}

func (p *invocation) install() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	args := p.serviceArgs(p.args)
	if strings.HasSuffix(p.name, " guest-agent") {
		// cowl, with the command of that name.
		args = append([]string{"guest-agent"}, args...)
	}
	m, err := mgr.Connect()
	if err != nil {
		return err
	}
	defer m.Disconnect()
	s, err := m.CreateService(serviceName, exe, mgr.Config{DisplayName: serviceDisplayName, Description: serviceDescription, StartType: mgr.StartAutomatic},
		args...)
	if err != nil {
		return err
	}
	return s.Close()
}

func uninstall() error {
	m, err := mgr.Connect()
	if err != nil {
		return err
	}
	defer m.Disconnect()
	s, err := m.OpenService(serviceName)
	if err != nil {
		return err
	}
	return errors.Join(s.Delete(), s.Close())
}

// underManager runs the agent; where the service manager has started the program, it
// is told how that goes, and ends the agent.
func (p *invocation) underManager(serve func() error) error {
	is, err := svc.IsWindowsService()
	if err != nil || !is {
		return serve()
	}
	h := &handler{p: p, serve: serve}
	if err := svc.Run(serviceName, h); err != nil {
		return err
	}
	return h.err
}

// handler speaks with the service manager.
type handler struct {
	p     *invocation
	serve func() error
	err   error
}

// Execute implements svc.Handler.
func (h *handler) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (specific bool, code uint32) {
	ended := make(chan error, 1)
	go func() { ended <- h.serve() }()
	status <- svc.Status{State: svc.Running, Accepts: svc.AcceptStop | svc.AcceptShutdown}
	for {
		select {
		case h.err = <-ended:
			if h.err != nil {
				return false, uint32(windows.ERROR_SERVICE_SPECIFIC_ERROR)
			}
			return false, 0
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.Stop, svc.Shutdown:
				status <- svc.Status{State: svc.StopPending}
				select {
				case h.p.signals <- os.Interrupt:
				default: // it is ending already
				}
			}
		}
	}
}
