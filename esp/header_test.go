package esp

import (
	"bytes"
	"fmt"
	"testing"

	"coati/packet"
	"coati/policy"
)

// All sixteen combinations of RFC 6040, section 4.2, figure 4: inner and outer field on arrival, and what is delivered; -1: dropped.
func TestECNOnTheWayOut(t *testing.T) {
	const notECT, ect1, ect0, ce, drop = packet.ECNNotECT, packet.ECNECT1, packet.ECNECT0, packet.ECNCE, -1
	for _, c := range []struct{ inner, outer, want int }{
		{notECT, notECT, notECT},
		{notECT, ect0, notECT},
		{notECT, ect1, notECT},
		{notECT, ce, drop},
		{ect0, notECT, ect0},
		{ect0, ect0, ect0},
		{ect0, ect1, ect1},
		{ect0, ce, ce},
		{ect1, notECT, ect1},
		{ect1, ect0, ect1},
		{ect1, ect1, ect1},
		{ect1, ce, ce},
		{ce, notECT, ce},
		{ce, ect0, ce},
		{ce, ect1, ce},
		{ce, ce, ce},
	} {
		for _, v6 := range []bool{false, true} {
			a, b := connect(t, gcm128, nil)
			const dscp = 0xb8
			a.out.Process(segment{v6: v6, sport: 1, dst: 1, tos: dscp | byte(c.inner)}.frame())
			sent := a.net.take()[0]
			if sent.tos != dscp|byte(c.inner) {
				t.Errorf("inner %d: left with tos %#x (section 4.1: a copy)", c.inner, sent.tos)
			}
			b.in.Receive([]Datagrams{{Buf: sent.buf, TOS: byte(c.outer)}})
			got := -1
			if f := b.tap.take(); len(f) == 1 {
				p := unfold(t, f[0])[0]
				got = int(tosOf(p) & packet.ECNMask)
				if tosOf(p)&^packet.ECNMask != dscp {
					t.Errorf("the inner dscp became %#x (RFC 4301, section 5.1.2.1)", tosOf(p))
				}
				if !v6 && !packet.IPv4(p).ChecksumOK() {
					t.Error("header checksum")
				}
			}
			if got != c.want || got == -1 && b.drops(DropECN) != 1 {
				t.Errorf("v6 %v, inner %d, outer %d: got %d, want %d", v6, c.inner, c.outer, got, c.want)
			}
		}
	}
}

// The outer header is made as the SA says (RFC 4301, section 5.1.2.1).
func TestTunnelHeaders(t *testing.T) {
	for name, c := range map[string]struct {
		header policy.TunnelHeader
		v6     bool // outside
		inner  segment
		own    bool // the header is ours
		check  func(out []byte, tos byte) error
	}{
		"dscp copied": {inner: segment{tos: 0xb9}, check: func(_ []byte, tos byte) error {
			return expect(tos, 0xb9)
		}},
		"dscp fixed": {header: policy.TunnelHeader{FixedDSCP: true, DSCP: 10}, inner: segment{tos: 0xb9}, check: func(_ []byte, tos byte) error {
			return expect(tos, 10<<2|1)
		}},
		"df set":           {inner: segment{}, check: func([]byte, byte) error { return nil }},
		"df copied, there": {header: policy.TunnelHeader{DF: policy.DFCopy}, inner: segment{df: true}, check: func([]byte, byte) error { return nil }},
		"df copied, not there": {header: policy.TunnelHeader{DF: policy.DFCopy}, own: true, check: func(out []byte, _ byte) error {
			return expect(packet.IPv4(out).DF(), false)
		}},
		"df of ipv6": {header: policy.TunnelHeader{DF: policy.DFCopy}, inner: segment{v6: true}, check: func([]byte, byte) error { return nil }},
		"df clear": {header: policy.TunnelHeader{DF: policy.DFClear}, inner: segment{df: true}, own: true, check: func(out []byte, _ byte) error {
			return expect(packet.IPv4(out).DF(), false)
		}},
		"hop limit": {header: policy.TunnelHeader{HopLimit: 9}, own: true, check: func(out []byte, _ byte) error {
			return expect(fmt.Sprint(packet.IPv4(out).TTL(), packet.IPv4(out).DF()), "9 true")
		}},
		"hop limit, ipv6 outside": {header: policy.TunnelHeader{HopLimit: 9}, v6: true, own: true, check: func(out []byte, _ byte) error {
			return expect(packet.IPv6(out).HopLimit(), 9)
		}},
		"flow label": {header: policy.TunnelHeader{CopyFlowLabel: true}, v6: true, inner: segment{v6: true, tos: 0xb8}, own: true, check: func(out []byte, _ byte) error {
			return expect(fmt.Sprintf("%#x %#x", packet.IPv6(out).FlowLabel(), packet.IPv6(out).TrafficClass()), "0x12345 0xb8")
		}},
		"flow label of ipv4 inside": {header: policy.TunnelHeader{CopyFlowLabel: true}, v6: true, check: func([]byte, byte) error { return nil }},
	} {
		for _, raw := range []bool{false, true} {
			l := link{enc: "aes128gcm16", v6: c.v6, raw: raw, header: c.header}
			a, b := connect(t, l, nil)
			c.inner.sport, c.inner.dst, c.inner.payload = 1, 1, filled(70, 1)
			f := c.inner.frame()
			if c.inner.v6 {
				f[packet.VirtioLen+1] |= 1
				f[packet.VirtioLen+2], f[packet.VirtioLen+3] = 0x23, 0x45
			}
			want := bytes.Clone(f[packet.VirtioLen:])
			a.out.Process(f)
			var d []Datagrams
			if c.own {
				if len(a.net.clear) != 1 {
					t.Errorf("%s: %d packets with a header of ours", name, len(a.net.clear))
					continue
				}
				out := a.net.clear[0]
				d = socketGives(t, out)
				if err := c.check(out, 0); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			} else {
				s := a.net.take()
				if len(s) != 1 {
					t.Errorf("%s: %d packets left by the socket", name, len(s))
					continue
				}
				d = []Datagrams{{Buf: s[0].buf}}
				if err := c.check(nil, s[0].tos); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			b.in.Receive(d)
			if got := unfoldAll(t, b.tap.take()); len(got) != 1 || !bytes.Equal(got[0], want) {
				t.Errorf("%s: not delivered: %v", name, b.Counters().Drops)
			}
		}
	}
}

func expect[T comparable](got, want T) error {
	if got != want {
		return fmt.Errorf("got %v, want %v", got, want)
	}
	return nil
}

// Padded packets all have one size, and lose the padding on arrival (RFC 4303, section 2.7); a run is padded, too.
func TestTrafficFlowPadding(t *testing.T) {
	for _, c := range []struct{ tfc, mtu, largest int }{{600, 0, 600}, {600, 1500, 600}, {9000, 1500, 1438}, {policy.TFCToMTU, 1500, 1438}} {
		for _, header := range []policy.TunnelHeader{{}, {HopLimit: 3}} {
			a, b := connect(t, link{enc: "aes128gcm16", tfc: c.tfc, mtu: c.mtu, header: header}, nil)
			var want [][]byte
			for _, n := range []int{1, 100, 400} {
				f := segment{sport: 1, dst: 1, seq: uint32(n) << 16, payload: filled(n, 1)}.frame()
				want = append(want, bytes.Clone(f[packet.VirtioLen:]))
				a.out.Process(f)
			}
			f := segment{sport: 2, dst: 1, payload: filled(450, 1), gso: 200}.frame()
			want = append(want, unfold(t, f)...)
			a.out.Process(f)
			pkts := a.net.packets()
			for _, p := range a.net.clear {
				pkts = append(pkts, socketGives(t, p)[0].Buf)
			}
			if len(pkts) != 6 {
				t.Fatalf("%d packets left: %v", len(pkts), a.Counters().Drops)
			}
			tr := a.Plane.out[1].tr
			for _, p := range pkts {
				if len(p) != tr.sealedLen(c.largest) {
					t.Errorf("tfc %d, mtu %d: %d octets, want %d", c.tfc, c.mtu, len(p), tr.sealedLen(c.largest))
				}
				b.in.Receive([]Datagrams{{Buf: p}})
			}
			if got := unfoldAll(t, b.tap.take()); len(got) != len(want) || !bytes.Equal(bytes.Join(got, nil), bytes.Join(want, nil)) {
				t.Errorf("tfc %d: not delivered as it was: %v", c.tfc, b.Counters().Drops)
			}
		}
	}
}
