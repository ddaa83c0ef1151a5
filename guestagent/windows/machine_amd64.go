//go:build windows

package windows

// machine is the name of the processor's kind in guest-get-osinfo.
const machine = "x86_64"
