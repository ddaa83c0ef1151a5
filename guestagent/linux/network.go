//go:build linux

package linux

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/guestagent"
)

// Link is a network interface.
type Link struct {
	Index    int
	Name     string
	Hardware []byte
}

// Address is an address of a network interface. Label is its name for the address.
type Address struct {
	Index  int
	Label  string
	IP     netip.Addr
	Prefix int
}

// Interface is a network interface in the reply.
type Interface struct {
	Name       string       `qga:"name"`
	Hardware   *string      `qga:"hardware-address,optional"`
	Addresses  []IPAddress  `qga:"ip-addresses,optional"`
	Statistics *LinkCounter `qga:"statistics,optional"`
}

// IPAddress is an address in the reply.
type IPAddress struct {
	Address string `qga:"ip-address"`
	Type    string `qga:"ip-address-type"`
	Prefix  int64  `qga:"prefix"`
}

// LinkCounter has the statistics of an interface.
type LinkCounter struct {
	RxBytes   uint64 `qga:"rx-bytes"`
	RxPackets uint64 `qga:"rx-packets"`
	RxErrs    uint64 `qga:"rx-errs"`
	RxDropped uint64 `qga:"rx-dropped"`
	TxBytes   uint64 `qga:"tx-bytes"`
	TxPackets uint64 `qga:"tx-packets"`
	TxErrs    uint64 `qga:"tx-errs"`
	TxDropped uint64 `qga:"tx-dropped"`
}

// interfaces lists interfaces in the order of getifaddrs: links, then the names of
// addresses that are not among them.
func (s *System) interfaces(context.Context, guestagent.None) ([]Interface, error) {
	links, err := s.Kernel.Links()
	if err != nil {
		return nil, cause(err, "getifaddrs failed")
	}
	addresses, err := s.Kernel.Addresses()
	if err != nil {
		return nil, cause(err, "getifaddrs failed")
	}
	list := []Interface{}
	index := map[string]int{}
	byNumber := map[int]Link{}
	add := func(name string, l Link) int {
		var hw [6]byte
		copy(hw[:], l.Hardware)
		text := fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", hw[0], hw[1], hw[2], hw[3], hw[4], hw[5])
		list = append(list, Interface{Name: name, Hardware: &text})
		index[name] = len(list) - 1
		return len(list) - 1
	}
	for _, l := range links {
		byNumber[l.Index] = l
		add(l.Name, l)
	}
	counters := s.linkCounters()
	for _, a := range addresses {
		name := a.Label
		if name == "" {
			name = byNumber[a.Index].Name
		}
		i, ok := index[name]
		if !ok {
			i = add(name, byNumber[a.Index])
		}
		kind := "ipv6"
		if a.IP.Is4() {
			kind = "ipv4"
		}
		list[i].Addresses = append(list[i].Addresses, IPAddress{ipText(a.IP), kind, int64(a.Prefix)})
		list[i].Statistics = counters[name]
	}
	return list, nil
}

// ipText is inet_ntop, which shows the last bytes of addresses such as ::1.2.3.4 in
// decimal.
func ipText(ip netip.Addr) string {
	if b := ip.As16(); ip.Is6() && [12]byte(b[:12]) == [12]byte{} && (b[12] != 0 || b[13] != 0) {
		return "::" + netip.AddrFrom4([4]byte(b[12:])).String()
	}
	return ip.WithZone("").String()
}

// linkCounters reads /proc/net/dev.
func (s *System) linkCounters() map[string]*LinkCounter {
	counters := map[string]*LinkCounter{}
	text, _ := s.read("/proc/net/dev") // without it there are no statistics
	for _, line := range strings.Split(text, "\n") {
		i := strings.LastIndexByte(line, ':')
		if i < 0 {
			continue
		}
		if n := numbers(strings.Fields(line[i+1:])); len(n) == 16 {
			counters[strings.TrimSpace(line[:i])] = &LinkCounter{n[0], n[1], n[2], n[3], n[8], n[9], n[10], n[11]}
		}
	}
	return counters
}

// dump asks the kernel for a list over netlink.
func dump(request, reply int) ([]syscall.NetlinkMessage, error) {
	tab, err := syscall.NetlinkRIB(request, unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	all, err := syscall.ParseNetlinkMessage(tab)
	if err != nil {
		return nil, err
	}
	var list []syscall.NetlinkMessage
	for _, m := range all {
		if int(m.Header.Type) == reply {
			list = append(list, m)
		}
	}
	return list, nil
}

func (realKernel) Links() ([]Link, error) {
	messages, err := dump(unix.RTM_GETLINK, unix.RTM_NEWLINK)
	if err != nil {
		return nil, err
	}
	var links []Link
	for _, m := range messages {
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil || len(m.Data) < unix.SizeofIfInfomsg {
			return nil, unix.EINVAL
		}
		l := Link{Index: int(hostUint32(m.Data[4:]))}
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.IFLA_IFNAME:
				l.Name = unix.ByteSliceToString(a.Value)
			case unix.IFLA_ADDRESS:
				l.Hardware = a.Value
			}
		}
		links = append(links, l)
	}
	return links, nil
}

func (realKernel) Addresses() ([]Address, error) {
	messages, err := dump(unix.RTM_GETADDR, unix.RTM_NEWADDR)
	if err != nil {
		return nil, err
	}
	var list []Address
	for _, m := range messages {
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil || len(m.Data) < unix.SizeofIfAddrmsg {
			return nil, unix.EINVAL
		}
		a := Address{Index: int(hostUint32(m.Data[4:])), Prefix: int(m.Data[1])}
		local := false
		for _, attr := range attrs {
			switch attr.Attr.Type {
			case unix.IFA_LABEL:
				a.Label = unix.ByteSliceToString(attr.Value)
			case unix.IFA_LOCAL, unix.IFA_ADDRESS:
				// The address of the other end of a link is not ours.
				if ip, ok := netip.AddrFromSlice(attr.Value); ok && (attr.Attr.Type == unix.IFA_LOCAL || !local) {
					a.IP = ip
					local = attr.Attr.Type == unix.IFA_LOCAL
				}
			}
		}
		if a.IP.IsValid() {
			list = append(list, a)
		}
	}
	return list, nil
}

// Route is a route in the reply.
type Route struct {
	Interface    string  `qga:"iface"`
	Destination  string  `qga:"destination"`
	Metric       int64   `qga:"metric"`
	Gateway      *string `qga:"gateway,optional"`
	Mask         *string `qga:"mask,optional"`
	IRTT         *int64  `qga:"irtt,optional"`
	Flags        *uint64 `qga:"flags,optional"`
	RefCount     *int64  `qga:"refcnt,optional"`
	Use          *int64  `qga:"use,optional"`
	Window       *int64  `qga:"window,optional"`
	MTU          *int64  `qga:"mtu,optional"`
	DestPrefix   *string `qga:"desprefixlen,optional"`
	Source       *string `qga:"source,optional"`
	SourcePrefix *string `qga:"srcprefixlen,optional"`
	NextHop      *string `qga:"nexthop,optional"`
	Version      int64   `qga:"version"`
}

func (s *System) routes(context.Context, guestagent.None) ([]Route, error) {
	list := []Route{}
	v4, err4 := s.read("/proc/net/route")
	v6, err6 := s.read("/proc/net/ipv6_route")
	if err4 != nil && err6 != nil {
		return nil, cause(err4, "Could not open '/proc/net/route'")
	}
	for _, line := range strings.Split(v4, "\n") {
		if r, ok := parseRoute4(strings.Fields(line)); ok {
			list = append(list, r)
		}
	}
	for _, line := range strings.Split(v6, "\n") {
		if r, ok := parseRoute6(strings.Fields(line)); ok {
			list = append(list, r)
		}
	}
	return list, nil
}

// hexes and decimals parse numbers of at most 32 bits; ok turns false if one is none.
func hexes(ok *bool, fields ...string) []uint64 { return parseAll(ok, 16, fields) }

func parseAll(ok *bool, base int, fields []string) []uint64 {
	out := make([]uint64, len(fields))
	for i, f := range fields {
		n, err := strconv.ParseUint(f, base, 32)
		if err != nil {
			*ok = false
		}
		out[i] = n
	}
	return out
}

// parseRoute4 reads a line of /proc/net/route: interface, destination, gateway, flags,
// references, use, metric, mask, MTU, window, IRTT.
func parseRoute4(f []string) (Route, bool) {
	if len(f) < 11 {
		return Route{}, false
	}
	ok := true
	h := hexes(&ok, f[1], f[2], f[3], f[7])
	d := parseAll(&ok, 10, []string{f[4], f[5], f[6], f[8], f[9], f[10]})
	if !ok {
		return Route{}, false
	}
	ip := func(n uint64) *string {
		var b [4]byte
		putHostUint32(b[:], uint32(n))
		t := netip.AddrFrom4(b).String()
		return &t
	}
	num := func(n uint64) *int64 { i := int64(n); return &i }
	return Route{Interface: f[0], Destination: *ip(h[0]), Gateway: ip(h[1]), Mask: ip(h[3]), Flags: &h[2], Metric: int64(d[2]),
		RefCount: num(d[0]), Use: num(d[1]), MTU: num(d[3]), Window: num(d[4]), IRTT: num(d[5]), Version: 4}, true
}

// parseRoute6 reads a line of /proc/net/ipv6_route: destination and prefix, source and
// prefix, next hop, metric, references, use, flags, interface; numbers in base 16.
func parseRoute6(f []string) (Route, bool) {
	if len(f) < 10 {
		return Route{}, false
	}
	ok := true
	ip := func(s string) *string {
		var b [16]byte
		if len(s) != 32 {
			ok = false
			return &s
		}
		for i := range b {
			b[i] = byte(hexes(&ok, s[2*i:2*i+2])[0])
		}
		t := ipText(netip.AddrFrom16(b))
		return &t
	}
	h := hexes(&ok, f[1], f[3], f[5], f[6], f[7], f[8])
	text := func(n uint64) *string { t := strconv.FormatUint(n, 10); return &t }
	num := func(n uint64) *int64 { i := int64(n); return &i }
	r := Route{Interface: f[9], Destination: *ip(f[0]), Source: ip(f[2]), NextHop: ip(f[4]), DestPrefix: text(h[0]), SourcePrefix: text(h[1]),
		Metric: int64(h[2]), RefCount: num(h[3]), Use: num(h[4]), Flags: &h[5], Version: 6}
	return r, ok
}
