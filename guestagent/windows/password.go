//go:build windows

package windows

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/cowl-disk/cowl/guestagent"
)

type passwordArgs struct {
	User     string `qga:"username"`
	Password string `qga:"password"`
	Crypted  bool   `qga:"crypted"`
}

// netError is a status of the network management functions. Those from 2100 on have
// their texts in a library of their own.
type netError uint32

const userNotFound netError = 2221 // NERR_UserNotFound

func (e netError) Error() string {
	switch {
	case e == userNotFound:
		return "The user name could not be found."
	case 2100 <= e && e <= 2999:
		return fmt.Sprintf("network management error %d", uint32(e))
	}
	return windows.Errno(e).Error()
}

func setPassword(_ context.Context, args passwordArgs) (guestagent.None, error) {
	if args.Crypted {
		return guestagent.None{}, errors.New("'crypted' must be off on this host")
	}
	password, err := guestagent.DecodeBase64(args.Password)
	if err != nil {
		return guestagent.None{}, err
	}
	user, err := windows.UTF16PtrFromString(args.User)
	if err != nil {
		return guestagent.None{}, fmt.Errorf("can't convert 'username' to UTF-16: %w", err)
	}
	// As in QEMU's agent, a NUL ends the password.
	text, _, _ := strings.Cut(string(password), "\x00")
	secret, err := windows.UTF16FromString(text)
	if err != nil {
		return guestagent.None{}, fmt.Errorf("can't convert 'password' to UTF-16: %w", err)
	}
	defer clear(secret)
	info := struct{ password *uint16 }{&secret[0]} // USER_INFO_1003
	set := windows.NewLazySystemDLL("netapi32.dll").NewProc("NetUserSetInfo")
	if err := set.Find(); err != nil {
		return guestagent.None{}, fmt.Errorf("failed to set password: %w", err)
	}
	status, _, _ := set.Call(0, uintptr(unsafe.Pointer(user)), 1003, uintptr(unsafe.Pointer(&info)), 0)
	if status != 0 {
		return guestagent.None{}, fmt.Errorf("failed to set password: %w", netError(status))
	}
	return guestagent.None{}, nil
}
