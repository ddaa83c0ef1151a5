//go:build linux

package linux

import "testing"

// TestCryptSHA512 has the vectors of the method's description.
func TestCryptSHA512(t *testing.T) {
	got, err := cryptSHA512("Hello world!", "saltstring", cryptRounds)
	const want = "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"
	if err != nil || got != want {
		t.Errorf("%s, %v", got, err)
	}
}
