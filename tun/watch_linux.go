package tun

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Changed is a set of kinds of change.
type Changed uint8

// What changed on the machine. Our own routes and rules are not reported.
const (
	ChangedLink Changed = 1 << iota
	ChangedAddress
	ChangedRoute
)

// String lists the kinds: "address, route".
func (c Changed) String() string {
	var parts []string
	for i, name := range []string{"link", "address", "route"} {
		if c&(1<<i) != 0 {
			parts = append(parts, name)
		}
	}
	return strings.Join(parts, ", ")
}

// Watch reports changes until ctx ends; then it closes the channel. Changes that were not yet
// received are merged, so a slow receiver loses none and delays nobody.
func (h *Host) Watch(ctx context.Context) (<-chan Changed, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch: %w", err)
	}
	f := os.NewFile(uintptr(fd), "netlink")
	stop := context.AfterFunc(ctx, func() { f.Close() })
	out := make(chan Changed, 1)
	go func() {
		defer close(out)
		defer f.Close()
		defer stop()
		buf := make([]byte, 1<<16)
		for {
			n, err := f.Read(buf)
			var c Changed
			switch {
			case errors.Is(err, unix.ENOBUFS):
				// The kernel dropped some: anything may have changed.
				c = ChangedLink | ChangedAddress | ChangedRoute
			case err != nil:
				return
			default:
				c = parseChanges(buf[:n])
			}
			if c == 0 {
				continue
			}
			select {
			case earlier := <-out:
				c |= earlier
			default:
			}
			out <- c // has room: this is the only sender
		}
	}()
	return out, nil
}

// parseChanges reads the types of the messages in one netlink datagram (rtnetlink(7)).
func parseChanges(b []byte) Changed {
	const protocolAt = unix.SizeofNlMsghdr + 5 // rtmsg.rtm_protocol
	var c Changed
	for len(b) >= unix.SizeofNlMsghdr {
		size := binary.NativeEndian.Uint32(b)
		if size < unix.SizeofNlMsghdr || uint64(size) > uint64(len(b)) {
			return c
		}
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			c |= ChangedLink
		case unix.RTM_NEWADDR, unix.RTM_DELADDR:
			c |= ChangedAddress
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			if size <= protocolAt || b[protocolAt] != RouteProtocol {
				c |= ChangedRoute
			}
		}
		next := (uint64(size) + 3) &^ 3
		if next >= uint64(len(b)) {
			return c
		}
		b = b[next:]
	}
	return c
}
