package esp

import (
	"encoding/binary"
	"testing"
	"time"

	"coati/packet"
	"coati/policy"
)

// pieces cuts a packet into two fragments, in frames: the first has 64 octets of what the IP header carries.
func pieces(t testing.TB, s segment) [2][]byte {
	t.Helper()
	whole := s.frame()[packet.VirtioLen:]
	header := packet.IPv4Len
	if s.v6 {
		header = packet.IPv6Len
	}
	return [2][]byte{
		fragmentFrame(whole[:header], whole[header:header+64], 0, true, s.id),
		fragmentFrame(whole[:header], whole[header+64:], 64, false, s.id),
	}
}

// fragmentFrame is a frame with part of what follows header, which begins at the offset.
func fragmentFrame(header, part []byte, offset int, more bool, id uint16) []byte {
	f := append(make([]byte, packet.VirtioLen), header...)
	if header[0]>>4 == 6 {
		extra := make([]byte, 8)
		extra[0] = header[6]
		binary.BigEndian.PutUint16(extra[2:], uint16(offset))
		if more {
			extra[3] |= 1
		}
		binary.BigEndian.PutUint32(extra[4:], uint32(id))
		f = append(append(f, extra...), part...)
		p := packet.IPv6(f[packet.VirtioLen:])
		p[6] = packet.ProtoFragment
		p.SetPayloadLen(len(p) - len(header))
		return f
	}
	f = append(f, part...)
	p := packet.IPv4(f[packet.VirtioLen:])
	p.SetTotalLen(len(p))
	p.SetFragment(offset, more)
	p.FillChecksum()
	return f
}

// RFC 4301, section 7: which entry of the SPD a fragment belongs to. 5001 is the port everything here goes to.
func TestFragmentsAndPorts(t *testing.T) {
	entry := func(id policy.PolicyID, action policy.Action, port string) policy.Policy {
		p := policy.Policy{ID: id, Priority: int32(id), Action: action, Local: netA, Remote: selectors("10.2.0.0/16"+port, "fd02::/16"+port)}
		if action == policy.Protect {
			p.ReqID = 7
		}
		return p
	}
	const none = "none"
	for _, c := range []struct {
		name          string
		policies      []policy.Policy
		first, second string
	}{
		{"any port (7.1)", []policy.Policy{entry(1, policy.Protect, "[udp]")}, "esp", "esp"},
		{"certain ports (7.3)", []policy.Policy{entry(1, policy.Protect, "[udp/5001]")}, "esp", none},
		{"certain and opaque ports (7.2)", []policy.Policy{entry(1, policy.Protect, "[udp/5001]"), entry(2, policy.Protect, "[udp/opaque]")}, "esp", "esp"},
		{"bypassed by its port (7.4)", []policy.Policy{entry(1, policy.Bypass, "[udp/5001]"), entry(2, policy.Protect, "[udp]")}, "clear", "clear"},
		{"bypassed, if it had another port", []policy.Policy{entry(1, policy.Bypass, "[udp/53]"), entry(2, policy.Protect, "[udp]")}, "esp", "esp"},
		{"discarded by its port", []policy.Policy{entry(1, policy.Discard, "[udp/5001]"), entry(2, policy.Bypass, "")}, none, none},
		{"protected by its port, others in clear", []policy.Policy{entry(1, policy.Protect, "[udp/5001]"), entry(2, policy.Bypass, "")}, "esp", none},
		{"in clear all the same", []policy.Policy{entry(1, policy.Protect, "[udp/53]"), entry(2, policy.Bypass, "")}, "clear", "clear"},
	} {
		for _, v6 := range []bool{false, true} {
			a := newHost(nil)
			sa := gcm128.outbound()
			a.mustApply(t, policy.Tx{PutPolicies: c.policies, AddSAs: []policy.SA{sa}})
			for n, f := range pieces(t, segment{v6: v6, udp: true, id: 9, payload: filled(200, 1)}) {
				a.out.Process(f)
				got := none
				if len(a.net.take()) > 0 {
					got = "esp"
				}
				if len(a.net.clear) > 0 {
					got, a.net.clear = "clear", nil
				}
				if want := [2]string{c.first, c.second}[n]; got != want {
					t.Errorf("%s, IPv6 %t: fragment %d went %s, want %s", c.name, v6, n, got, want)
				}
			}
		}
	}
}

// What is remembered is one packet's, for a minute; the policies are asked anew.
func TestFirstFragmentsAreForgotten(t *testing.T) {
	policies := []policy.Policy{
		{ID: 1, Priority: 1, Action: policy.Bypass, Local: netA, Remote: selectors("10.2.0.0/16[udp/5001]")},
		{ID: 2, Priority: 2, Action: policy.Discard, Local: netA, Remote: netB},
	}
	for _, c := range []struct {
		name  string
		after func(a *host)
		id    uint16
		clear int
	}{
		{"at once", func(*host) {}, 9, 2},
		{"of another packet", func(*host) {}, 10, 1},
		{"after a while", func(a *host) { a.Tick(start.Add(fragmentPatience - time.Second)) }, 9, 2},
		{"too late", func(a *host) { a.Tick(start.Add(fragmentPatience)) }, 9, 1},
		{"after a change that left the policy", func(a *host) { a.mustApply(t, policy.Tx{PutPolicies: policies}) }, 9, 2},
		{"after the policy went", func(a *host) { a.mustApply(t, policy.Tx{DeletePolicies: []policy.PolicyID{1}}) }, 9, 1},
	} {
		a := newHost(nil)
		a.mustApply(t, policy.Tx{PutPolicies: policies})
		a.out.Process(pieces(t, segment{udp: true, id: 9, payload: filled(200, 1)})[0])
		c.after(a)
		a.out.Process(pieces(t, segment{udp: true, id: c.id, payload: filled(200, 1)})[1])
		if n := len(a.net.clear); n != c.clear {
			t.Errorf("%s: %d of 2 fragments went in clear, want %d", c.name, n, c.clear)
		}
	}
}

// A fragment that could put other ports over those of the first is no packet (RFC 4301, section 7.2; RFC 1858).
func TestFragmentsThatOverwritePorts(t *testing.T) {
	b := newHost(nil)
	b.mustApply(t, policyTx(gcm128))
	p := pieces(t, segment{payload: filled(200, 1)})[1][packet.VirtioLen:]
	packet.IPv4(p).SetFragment(8, true)
	packet.IPv4(p).FillChecksum()
	b.in.Receive([]Datagrams{{Buf: forge(t, gcm128, 1, trailer(p, 4))}})
	if b.drops(DropInner) != 1 || len(b.tap.take()) != 0 {
		t.Errorf("drops %v", b.Counters().Drops)
	}
}

// Fragments of any shape are parsed without a fault, and are late exactly if they show no ports.
func FuzzFragments(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		for _, p := range pieces(f, segment{v6: v6, udp: true, id: 9, payload: filled(200, 1)}) {
			f.Add(p[packet.VirtioLen:])
		}
	}
	f.Fuzz(func(t *testing.T, pkt []byte) {
		var i packet.Info
		if packet.Parse(pkt, &i) != nil {
			return
		}
		pkt = pkt[:i.Length]
		_, known := fragmentKeyOf(pkt, &i)
		if i.Fragment && !known {
			t.Error("a fragment without a key")
		}
		if later(pkt, &i) && (!i.Fragment || i.HasPorts) {
			t.Errorf("a fragment after the first that is none, or shows ports: %+v", i)
		}
		overwrites(pkt, &i)
	})
}
