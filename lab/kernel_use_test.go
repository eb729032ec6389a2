package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"coati/gateway/control"
)

// TestInKernelUse: with level = "use" packets pass in clear while IKE has made no SA, under one as soon as there is one, and in clear
// again after its end; with Coati on XFRM at the one end and in userspace at the other, in both modes.
func TestInKernelUse(t *testing.T) {
	NeedKernel(t)
	results.Fill(t, peerXFRM, roleBoth, caseXFRMUse)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	cases := []kernelCase{{esp: "aes128gcm16-esn"}, {esp: "aes128gcm16-esn", transport: true}, {esp: "aes128gcm16-esn", inner6: true, udp: true}}
	var left, right strings.Builder
	var all []kernelPeers
	optional := func(text string) string {
		return strings.Replace(text, "psk-file", "start = \"listen\"\npsk-file", 1) + "level = \"use\"\n"
	}
	for i, c := range cases {
		p := peersOf(c, i)
		all = append(all, p)
		left.WriteString(optional(kernelTunnel(c, i, p)))
		right.WriteString(optional(kernelTunnel(c, i, p.reversed())))
	}
	addAddresses(t, pair, all...)
	for _, p := range all {
		if p.innerA == p.outerA {
			continue
		}
		nextA, nextB := a.Outer4, b.Outer4
		if p.innerA.Is6() {
			nextA, nextB = a.Outer6, b.Outer6
		}
		a.Must(t, "ip", "route", "add", p.innerB.String(), "via", nextB.String(), "src", p.innerA.String())
		b.Must(t, "ip", "route", "add", p.innerA.String(), "via", nextA.String(), "src", p.innerB.String())
	}
	user, kernel := startKernelPair(t, pair, left.String(), right.String())
	both := func(i int, when string) {
		t.Helper()
		p := all[i]
		if lost := unanswered(t, a, p.innerA, b, p.innerB, 3) + unanswered(t, b, p.innerB, a, p.innerA, 3); lost != 0 {
			t.Errorf("%s: %d of 6 datagrams lost", when, lost)
		}
	}
	for i, c := range cases {
		t.Run(strings.ReplaceAll(c.String(), " ", "-"), func(t *testing.T) {
			both(i, "without an sa")
			if got := kernelStates(t, b); len(got) > 0 || len(user.Pairs(t)) > 0 {
				t.Errorf("although both only listen, there are SAs: %v", got)
			}
			kernel.Do(t, "up", fmt.Sprintf("t%d", i))
			WaitFor(t, 60*time.Second, "a pair of SAs at both ends", func() bool { return len(user.Pairs(t)) == 1 && len(kernel.Pairs(t)) == 1 })
			both(i, "with an sa")
			var ours, theirs control.Pair
			if !Within(10*time.Second, func() bool {
				ours, theirs = user.Pairs(t)[0], kernel.Pairs(t)[0]
				return ours.In.Packets >= 6 && ours.Out.Packets >= 6 && ours.In.Packets == theirs.Out.Packets && ours.Out.Packets == theirs.In.Packets
			}) {
				t.Errorf("of 6 datagrams each way userspace counts %d in and %d out, the kernel %d out and %d in", ours.In.Packets, ours.Out.Packets, theirs.Out.Packets, theirs.In.Packets)
			}
			kernel.Do(t, "down", fmt.Sprintf("t%d", i))
			WaitFor(t, 60*time.Second, "no SAs", func() bool { return len(user.Pairs(t)) == 0 && len(kernelStates(t, b)) == 0 })
			both(i, "after its end")
		})
	}
	user.Alive(t)
	kernel.Alive(t)
}
