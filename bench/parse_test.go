package bench

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseIperf(t *testing.T) {
	t.Parallel()
	// Abridged reports of iperf3 3.12.
	const one = `{"start":{"version":"iperf 3.12"},"intervals":[
		{"streams":[],"sum":{"start":0,"end":0.25,"seconds":0.25,"bytes":100000000,"omitted":false}},
		{"streams":[],"sum":{"start":0.25,"end":0.5,"seconds":0.25,"bytes":100000000,"omitted":false}},
		{"streams":[],"sum":{"start":0.500012,"end":0.75,"seconds":0.25,"bytes":150000000,"omitted":false}},
		{"streams":[],"sum":{"start":0.75,"end":1,"seconds":0.25,"bytes":160000000,"omitted":false}}],
		"end":{"sum_sent":{"bytes":520000000},"sum_received":{"seconds":1.04,"bytes":510000000}}}`
	got, err := parseIperf([]byte(one))
	if err != nil {
		t.Fatal(err)
	}
	if want := (iperfResult{rate: 310e6 * 8 / 0.5, octets: 510e6}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	const both = `{"intervals":[
		{"sum":{"start":0.5,"seconds":0.25,"bytes":10},"sum_bidir_reverse":{"start":0.5,"seconds":0.25,"bytes":30}},
		{"sum":{"start":0.75,"seconds":0.25,"bytes":20},"sum_bidir_reverse":{"start":0.75,"seconds":0.25,"bytes":40}}],
		"end":{"sum_received":{"bytes":31},"sum_received_bidir_reverse":{"bytes":71}}}`
	got, err = parseIperf([]byte(both))
	if err != nil {
		t.Fatal(err)
	}
	if want := (iperfResult{rate: 1600, octets: 102}); got != want {
		t.Errorf("both ways: got %+v, want %+v", got, want)
	}
	for _, bad := range []string{"", "{}", `{"error":"unable to connect to server: Connection refused"}`, `{"intervals":[{"sum":{"start":0,"bytes":1,"seconds":1}}]}`} {
		if r, err := parseIperf([]byte(bad)); err == nil {
			t.Errorf("%q is a report: %+v", bad, r)
		}
	}
}

func TestParseProc(t *testing.T) {
	t.Parallel()
	const stat = `4711 (a) b) c) S 1 4711 4711 0 -1 4194560 5303 0 0 0 250 125 7 9 20 0 9 0 123456 1303248896 4021 18446744073709551615`
	if got, err := parseStat(stat); err != nil || got != 3750*time.Millisecond {
		t.Errorf("%v of processor time, %v; want 3.75s", got, err)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S 1 2", "1 (x) S 1 2 3 4 5 6 7 8 9 10 x y 11"} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q says %v", bad, got)
		}
	}
	before := parseMachineTime("cpu  100 0 100 700 0 0 0 100 0 0\ncpu0 1 2 3\n")
	after := parseMachineTime("cpu  150 0 150 780 10 5 5 200 0 0\n")
	if diff := cmp.Diff(machineTime{busy: 310, idle: 790, steal: 200}, after, cmp.AllowUnexported(machineTime{})); diff != "" {
		t.Error(diff)
	}
	if got := before.stolen(after); got != 1.0/3 {
		t.Errorf("%v was stolen, want a third", got)
	}
	if got := before.stolen(before); got != 0 {
		t.Errorf("%v was stolen in no time", got)
	}
	model, mhz := parseCPUInfo("processor\t: 0\nmodel name\t: AMD EPYC 9R14\ncpu MHz\t\t: 2595.124\n")
	if model != "AMD EPYC 9R14" || mhz != 2595.124 {
		t.Errorf("%q at %v MHz", model, mhz)
	}
}

func TestParseOffloads(t *testing.T) {
	t.Parallel()
	const features = `Features for eth0:
rx-checksumming: on
tx-checksumming: on
	tx-checksum-ipv4: off [fixed]
tcp-segmentation-offload: on
	tx-tcp-segmentation: on
generic-segmentation-offload: off
tx-udp-segmentation: on [fixed]
`
	want := []string{"tx-checksumming", "tcp-segmentation-offload", "tx-udp-segmentation"}
	if diff := cmp.Diff(want, parseOffloads(features)); diff != "" {
		t.Error(diff)
	}
}

func TestParseReady(t *testing.T) {
	t.Parallel()
	mtu, offloads := parseReady(`time=2026-11-21T13:00:00.000Z level=INFO msg=ready version="coati (devel)" device=coati0 mtu=1438 offload="vnet-hdr, tso, 2 queues"`)
	if mtu != 1438 || !slices.Equal(offloads, []string{"vnet-hdr, tso, 2 queues"}) {
		t.Errorf("MTU %d, offloads %q", mtu, offloads)
	}
	if mtu, offloads := parseReady("msg=ready"); mtu != 0 || offloads != nil {
		t.Errorf("MTU %d, offloads %q of nothing", mtu, offloads)
	}
}

// What a dead run left is found by its name, and nobody else's namespace is.
func TestOwner(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{"cbn4711-1a": 4711, "cbn12-xyz": 12, "cbn-1": 0, "cbnx12-1": 0, "clab4711-1a": 0, "mycbn4711-1": 0, "cbn4711": 0} {
		if pid, ok := owner(name); pid != want || ok != (want != 0) {
			t.Errorf("%s belongs to %d, %t; want %d", name, pid, ok, want)
		}
	}
}

func TestChoice(t *testing.T) {
	t.Parallel()
	list := func(o PathOptions) (out []string) {
		measures, err := o.chosen()
		if err != nil {
			return []string{err.Error()}
		}
		for _, m := range measures {
			out = append(out, m.name+": "+strings.Join(m.contenders, " "))
		}
		return out
	}
	if got := list(PathOptions{}); len(got) != len(allMeasures) {
		t.Errorf("%d measures without a choice, want all %d", len(got), len(allMeasures))
	}
	quick := []string{"tcp-1: coati wireguard-go strongswan", "udp-64: coati wireguard-go strongswan", "ping-idle: coati wireguard-go strongswan"}
	if diff := cmp.Diff(quick, list(PathOptions{Quick: true})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"tcp-16: bare coati"}, list(PathOptions{Quick: true, Measures: []string{"tcp-16"}, Contenders: []string{Bare, Coati}})); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []PathOptions{{Measures: []string{"tcp-5"}}, {Contenders: []string{"openvpn"}}} {
		if got := list(bad); len(got) != 1 || !strings.Contains(got[0], "cannot be chosen: want one of") {
			t.Errorf("%+v gives %q", bad, got)
		}
	}
}

// A burst must fit into one datagram that the kernel cuts: 64 segments, 65,507 octets of payload.
func TestLoadsFit(t *testing.T) {
	t.Parallel()
	for i, l := range []load{udp64, udp512, udp1400, imix, udp64Flows} {
		for _, b := range l.bursts {
			if b.count > 64 || (b.size-headers)*b.count > 65507 {
				t.Errorf("load %d: %d packets of %d octets do not fit", i, b.count, b.size)
			}
		}
	}
	if udp64.packets() != 64 || udp64.octets() != 64*64 || imix.packets() != 48 {
		t.Errorf("%d packets of %d octets; IMIX has %d", udp64.packets(), udp64.octets(), imix.packets())
	}
}
