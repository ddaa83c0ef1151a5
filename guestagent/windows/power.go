//go:build windows

package windows

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/cowl-disk/cowl/guestagent"
)

var (
	powrprof        = windows.NewLazySystemDLL("powrprof.dll")
	setSuspendState = powrprof.NewProc("SetSuspendState")
	capabilities    = powrprof.NewProc("GetPwrCapabilities")

	wtsapi       = windows.NewLazySystemDLL("wtsapi32.dll")
	querySession = wtsapi.NewProc("WTSQuerySessionInformationW")
)

// Fields of SYSTEM_POWER_CAPABILITIES, one byte each.
const (
	capabilityS3        = 5
	capabilityHibernate = 8
	capabilityBytes     = 128 // more than any version of the system fills in
)

// suspend returns the command that puts the system to sleep.
func suspend(hibernate bool) func(context.Context, guestagent.None) (guestagent.None, error) {
	return func(context.Context, guestagent.None) (guestagent.None, error) {
		var c [capabilityBytes]byte
		if ok, _, err := capabilities.Call(uintptr(unsafe.Pointer(&c[0]))); byte(ok) == 0 {
			return guestagent.None{}, fmt.Errorf("failed to determine the power states of the system: %w", err)
		}
		field, what, disk := capabilityS3, "suspend-to-ram", uintptr(0)
		if hibernate {
			field, what, disk = capabilityHibernate, "hibernate", 1
		}
		if c[field] == 0 {
			return guestagent.None{}, errors.New(what + " not supported by OS")
		}
		if err := enable("SeShutdownPrivilege"); err != nil {
			return guestagent.None{}, fmt.Errorf("failed to suspend: %w", err)
		}
		if ok, _, err := setSuspendState.Call(disk, 1, 1); byte(ok) == 0 {
			return guestagent.None{}, fmt.Errorf("failed to suspend: %w", err)
		}
		return guestagent.None{}, nil
	}
}

// Processor is a processor in the reply of guest-get-vcpus.
type Processor struct {
	ID         int64 `qga:"logical-id"`
	Online     bool  `qga:"online"`
	CanOffline *bool `qga:"can-offline,optional"`
}

// allGroups asks for the processors of all groups.
const allGroups = 0xFFFF

func processors(context.Context, guestagent.None) ([]Processor, error) {
	list := []Processor{}
	no := false
	for i := range windows.GetActiveProcessorCount(allGroups) {
		list = append(list, Processor{int64(i), true, &no})
	}
	return list, nil
}

// sessionInfo asks for WTSINFOW.
const sessionInfo = 24

func users(context.Context, guestagent.None) ([]User, error) {
	var sessions *windows.WTS_SESSION_INFO
	var n uint32
	if err := windows.WTSEnumerateSessions(0, 0, 1, &sessions, &n); err != nil {
		return nil, fmt.Errorf("failed to list the sessions: %w", err)
	}
	defer windows.WTSFreeMemory(uintptr(unsafe.Pointer(sessions)))
	list := []User{}
	for _, s := range unsafe.Slice(sessions, n) {
		var data *byte
		var size uint32
		// A session that ends meanwhile is nobody's.
		ok, _, _ := querySession.Call(0, uintptr(s.SessionID), sessionInfo, uintptr(unsafe.Pointer(&data)), uintptr(unsafe.Pointer(&size)))
		if ok == 0 {
			continue
		}
		if u, ok := parseSession(unsafe.Slice(data, size)); ok {
			list = addLogin(list, u)
		}
		windows.WTSFreeMemory(uintptr(unsafe.Pointer(data)))
	}
	return list, nil
}
