package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"coati/gateway/control"
)

// statusOfConns has a tunnel of IKEv1 with two conns, one of two pairs of subnets, in the middle of a rekey; and one of IKEv2.
func statusOfConns() control.Status {
	when := time.Date(2026, 11, 21, 22, 0, 0, 0, time.Local)
	pair := func(in, out string) control.Pair {
		return control.Pair{Mode: "tunnel", Proposal: "aes128-sha1", In: control.SA{SPI: in}, Out: control.SA{SPI: out}}
	}
	return control.Status{Tunnels: []control.Tunnel{{
		Name: "a", Local: "192.0.2.1", Remote: "192.0.2.2", Start: "now",
		IKE: []control.IKE{{Version: 1, Initiator: true, Established: &when, LocalSPI: "0123456789abcdef", RemoteSPI: "fedcba9876543210", Local: "192.0.2.1:500", Remote: "192.0.2.2:4500", Proposal: "aes128-sha1-modp1024"}},
		Children: []control.Child{
			{Name: "a", LocalTS: []string{"10.1.0.0/16"}, RemoteTS: []string{"10.2.0.0/16"}, SAs: []control.Pair{pair("00000001", "00000002"), pair("00000003", "00000004")}},
			{Name: "b-1x1", SAs: []control.Pair{pair("00000005", "00000006")}},
			{Name: "b-1x2"},
			{Name: "b-2"},
		},
	}, {
		Name: "six", Remote: "2001:db8::2", Start: "listen",
		IKE:      []control.IKE{{Version: 2, Established: &when, Remote: "[2001:db8::2]:500", Local: "[2001:db8::1]:500", LocalSPI: "1111111111111111", RemoteSPI: "2222222222222222"}},
		Children: []control.Child{{Name: "x"}},
	}}}
}

func TestConnsAreFoundByTheirNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]control.Target{
		"a":    {{Tunnel: "a", Child: "a"}},
		"b":    {{Tunnel: "a", Child: "b-1x1"}, {Tunnel: "a", Child: "b-1x2"}},
		"six":  {{Tunnel: "six"}},
		"none": nil,
	} {
		if got := targets(statusOfConns(), name); !slices.Equal(got, want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPlutosLines(t *testing.T) {
	t.Parallel()
	const up = `004 "a" #1: STATE_MAIN_I4: ISAKMP SA established {aes128-sha1-modp1024}
004 "a" #3: STATE_QUICK_I2: sent QI2, IPsec SA established tunnel mode {ESP=>0x00000004 <0x00000003 xfrm=aes128-sha1}
`
	s := statusOfConns()
	if got := plutoUp(s, []control.Target{{Tunnel: "a", Child: "a"}}); got != up {
		t.Errorf("%s", got)
	}
	lines := plutoLines(s)
	for _, want := range []string{
		`000 "a": 10.1.0.0/16===192.0.2.1...192.0.2.2===10.2.0.0/16; erouted; eroute owner: #3`,
		`000 "x": ===%defaultroute...2001:db8::2===; unrouted; eroute owner: #0`,
		`000 #1: "a":4500 STATE_MAIN_I4 (ISAKMP SA established); newest ISAKMP`,
		`000 #2: "a":4500 STATE_QUICK_I2 (sent QI2, IPsec SA established); isakmp#1`,
		`000 #3: "a":4500 STATE_QUICK_I2 (sent QI2, IPsec SA established); newest IPSEC; eroute owner; isakmp#1`,
		`000 #3: "a" esp.00000004@192.0.2.2 esp.00000003@192.0.2.1 tunnel`,
		`000 #5: "six":500 STATE_V2_ESTABLISHED_IKE_SA (established IKE SA); newest ISAKMP`,
	} {
		if !slices.Contains(strings.Split(lines, "\n"), want) {
			t.Errorf("no %q in\n%s", want, lines)
		}
	}
}

func TestRacoonsListOfSAs(t *testing.T) {
	t.Parallel()
	const want = `Destination            Cookies                           Created
192.0.2.2.4500         0123456789abcdef:fedcba9876543210 2026-11-21 22:00:00
2001:db8::2.500        2222222222222222:1111111111111111 2026-11-21 22:00:00
`
	var b strings.Builder
	if err := writeISAKMP(&b, statusOfConns()); err != nil || b.String() != want {
		t.Errorf("%v\n%s", err, b.String())
	}
}
