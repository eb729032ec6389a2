package config

import (
	"strconv"

	"coati/policy"
)

// fragment-size says above which size, in octets of an IP datagram, IKE messages leave in IKE fragments (RFC 7383); or "off".

const (
	minFragment = 576 // RFC 7383, section 2.5.1
	maxFragment = 65535
	// DefaultFragment is IPv6's least MTU.
	DefaultFragment = 1280
)

func (l *loader) readFragmentSize(d *draft, k setting) {
	if k.v.kind != kindInteger {
		if _, ok := k.choice(l, "off"); ok {
			d.tunnel.FragmentSize = -1
		}
		return
	}
	n, _ := k.integer(l, minFragment, maxFragment)
	if d.tunnel.FragmentSize = int(n); n == DefaultFragment {
		d.tunnel.FragmentSize = 0
	}
}

func sayFragmentSize(t *policy.PeerTunnel) string {
	switch {
	case t.FragmentSize < 0:
		return "off"
	case t.FragmentSize == 0:
		return strconv.Itoa(DefaultFragment)
	}
	return strconv.Itoa(t.FragmentSize)
}

func (w *writer) fragmentSize(t *policy.PeerTunnel) {
	if t.FragmentSize < 0 {
		w.text("fragment-size", "off", "")
		return
	}
	w.number("fragment-size", t.FragmentSize, 0)
}
