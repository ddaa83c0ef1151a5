//go:build windows

package windows

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/cowl-disk/cowl/guestagent"
)

// userInfo1 is USER_INFO_1 up to the members that are used.
type userInfo1 struct {
	name, password    *uint16
	passwordAge, priv uint32
}

const privAdmin = 2 // USER_PRIV_ADMIN

// keyFile is the file with the keys of a user: that of all administrators in the folder
// of the SSH server, or the user's own.
type keyFile struct {
	path string
	acl  string // in the security descriptor definition language
}

// openKeys finds the file of a user.
func openKeys(user string, create bool) (guestagent.KeyFile, error) {
	f, err := findKeys(user)
	if err != nil {
		return nil, err
	}
	if !create {
		return f, nil
	}
	dir := filepath.Dir(f.path)
	if info, err := os.Lstat(dir); err == nil {
		if !info.IsDir() {
			return nil, fmt.Errorf("failed to create directory %s: it is no folder", dir)
		}
		return f, nil
	}
	attributes, err := f.security()
	if err != nil {
		return nil, err
	}
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return nil, err
	}
	if err := windows.CreateDirectory(name, attributes); err != nil {
		return nil, fmt.Errorf("failed to create directory %s: %w", dir, err)
	}
	return f, nil
}

func findKeys(user string) (*keyFile, error) {
	name, err := windows.UTF16PtrFromString(user)
	if err != nil {
		return nil, err
	}
	var buf *byte
	if err := windows.NetUserGetInfo(nil, name, 1, &buf); err != nil {
		var errno windows.Errno
		if errors.As(err, &errno) && netError(errno) == userNotFound {
			return nil, fmt.Errorf("User %s was not found", user)
		}
		return nil, fmt.Errorf("Received unexpected error when asking for user info: Error Code %d", uint32(errno))
	}
	defer windows.NetApiBufferFree(buf)
	info := (*userInfo1)(unsafe.Pointer(buf))
	// The name that the system knows, not the one that was asked for: it is a part of a path.
	known := windows.UTF16PtrToString(info.name)
	// System and administrators, and nobody by inheritance.
	acl := "D:P(A;;GA;;;SY)(A;;GA;;;BA)"
	if info.priv == privAdmin {
		dir, err := windows.KnownFolderPath(windows.FOLDERID_ProgramData, 0)
		if err != nil {
			return nil, fmt.Errorf("Failed to retrieve ProgramData folder: %w", err)
		}
		return &keyFile{filepath.Join(dir, "ssh", "administrators_authorized_keys"), acl}, nil
	}
	sid, err := userSID(known)
	if err != nil {
		return nil, fmt.Errorf("failed to get SID string for user %s: %w", known, err)
	}
	profiles, err := windows.KnownFolderPath(windows.FOLDERID_UserProfiles, 0)
	if err != nil {
		return nil, fmt.Errorf("failed to retrieve profiles directory: %w", err)
	}
	return &keyFile{filepath.Join(profiles, known, ".ssh", "authorized_keys"), acl + "(A;;GA;;;" + sid + ")"}, nil
}

// userSID returns the security identifier of a user of this machine, else of its domain.
// The machine may have the name of the user.
func userSID(user string) (string, error) {
	host, err := windows.ComputerName()
	if err != nil {
		return "", err
	}
	for _, account := range []string{host + `\` + user, user} {
		var sid *windows.SID
		var kind uint32
		if sid, _, kind, err = windows.LookupSID("", account); err == nil && kind == windows.SidTypeUser {
			return sid.String(), nil
		}
	}
	if err == nil {
		err = errors.New("it is the name of something else")
	}
	return "", err
}

// security has the access control list of the file.
func (f *keyFile) security() (*windows.SecurityAttributes, error) {
	sd, err := windows.SecurityDescriptorFromString(f.acl)
	if err != nil {
		return nil, fmt.Errorf("failed to make the access control list of %s: %w", f.path, err)
	}
	return &windows.SecurityAttributes{Length: uint32(unsafe.Sizeof(windows.SecurityAttributes{})), SecurityDescriptor: sd}, nil
}

// Close does nothing: the file is open while it is read or written only.
func (f *keyFile) Close() {}

// Read returns the lines of the file.
func (f *keyFile) Read() ([]string, error) {
	in, err := os.Open(f.path)
	if err != nil {
		return nil, fmt.Errorf("failed to read '%s': %w", f.path, err)
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, guestagent.MaxKeyFile+1))
	if err == nil && len(data) > guestagent.MaxKeyFile {
		err = errors.New("the file is too large")
	}
	if err != nil {
		return nil, fmt.Errorf("failed to read '%s': %w", f.path, err)
	}
	return guestagent.KeyLines(data), nil
}

// Write replaces the file. Nobody but the system, administrators and the user reaches
// the new one at any time: it is made with its access control list.
func (f *keyFile) Write(lines []string) error {
	fail := func(err error) error { return fmt.Errorf("failed to write to '%s': %w", f.path, err) }
	attributes, err := f.security()
	if err != nil {
		return fail(err)
	}
	temp := f.path + ".new"
	name, err := windows.UTF16PtrFromString(temp)
	if err != nil {
		return fail(err)
	}
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) { // left by an agent that was killed
		return fail(err)
	}
	handle, err := windows.CreateFile(name, windows.GENERIC_WRITE, 0, attributes, windows.CREATE_NEW, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return fail(err)
	}
	out := os.NewFile(uintptr(handle), temp)
	_, err = out.WriteString(guestagent.KeyText(lines))
	err = errors.Join(err, out.Sync(), out.Close())
	if err == nil {
		err = os.Rename(temp, f.path)
	}
	if err != nil {
		_ = os.Remove(temp)
		return fail(err)
	}
	return nil
}
