// Package planetest is what every policy.Plane must do, whoever carries its packets. It sends none: how packets look is
// for the plane's own tests.
package planetest

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"coati/policy"
)

// Run checks planes; each sub-test asks for a new and empty one.
func Run(t *testing.T, newPlane func(testing.TB) policy.Plane) {
	for _, c := range []struct {
		name string
		test func(*testing.T, policy.Plane)
	}{
		{"spis are unique and not reserved", spis},
		{"a deleted SA gives its SPI back", spiReturns},
		{"freeing an spi ends no SA", freed},
		{"an SA lives from Apply to delete", life},
		{"every algorithm of the table", algorithms},
		{"both directions, all address families", families},
		{"transport mode between the path's two ends", transport},
		{"of two hosts behind one NAT the second gets no traffic of the first", oneNAT},
		{"tunnel headers, padding and cut tags", options},
		{"a transaction is all or none", allOrNone},
		{"what does not exist cannot be changed", unknown},
		{"policies before SAs, deletes last", order},
		{"keys are wiped on delete", wiped},
		{"many callers at once", concurrent},
		{"a policy may be put again", putAgain},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, newPlane(t)) })
	}
}

// Policy is a policy of the suite: 10.1.0.0/16 to 10.2.0.0/16, with reqid 7.
func Policy(id policy.PolicyID, dir policy.Direction) policy.Policy {
	return policy.Policy{
		ID: id, Name: "planetest", Direction: dir, Priority: 100, Action: policy.Protect, ReqID: 7,
		Local:  []policy.Selector{policy.PrefixSelector(netip.MustParsePrefix("10.1.0.0/16"))},
		Remote: []policy.Selector{policy.PrefixSelector(netip.MustParsePrefix("10.2.0.0/16"))},
	}
}

// SA is an SA of the suite with an AES-GCM key of its own, made of its ID.
func SA(id policy.SAID, dir policy.Direction, spi policy.SPI) policy.SA {
	enc := policy.LookupKeyword("aes128gcm16")
	sa := policy.SA{
		ID: id, Direction: dir, Protocol: policy.ProtocolESP, SPI: spi, Mode: policy.Tunnel, ReqID: 7,
		Path: policy.Path{
			Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("192.0.2.2:4500"), Encap: policy.EncapUDP,
		},
		Local: Policy(0, dir).Local, Remote: Policy(0, dir).Remote,
		Encryption: enc.Transform(), EncryptionKey: policy.NewSecret(bytes.Repeat([]byte{byte(id)}, enc.KeyLen)),
		Added: time.Now(),
	}
	if dir == policy.Inbound {
		sa.ReplayWindow = 64
	}
	return sa
}

func apply(t *testing.T, p policy.Plane, tx policy.Tx) {
	t.Helper()
	if err := p.Apply(tx); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

func lives(t *testing.T, p policy.Plane, id policy.SAID, want bool) {
	t.Helper()
	_, err := p.State(id)
	switch {
	case want && err != nil:
		t.Errorf("sa %d: %v", id, err)
	case !want && !errors.Is(err, policy.ErrNoSA):
		t.Errorf("sa %d: error %v, want %v", id, err, policy.ErrNoSA)
	}
}

func spi(t *testing.T, p policy.Plane) policy.SPI {
	t.Helper()
	s, err := p.AllocSPI(policy.ProtocolESP)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func spis(t *testing.T, p policy.Plane) {
	seen := map[policy.SPI]bool{}
	for range 200 {
		s := spi(t, p)
		if s < 256 {
			t.Errorf("spi %s is reserved (RFC 4303, section 2.1)", s)
		}
		if seen[s] {
			t.Errorf("spi %s given out twice", s)
		}
		seen[s] = true
	}
	for s := range seen {
		p.FreeSPI(policy.ProtocolESP, s)
	}
}

func spiReturns(t *testing.T, p policy.Plane) {
	s := spi(t, p)
	apply(t, p, policy.Tx{AddSAs: []policy.SA{SA(1, policy.Inbound, s)}})
	if p.Apply(policy.Tx{AddSAs: []policy.SA{SA(2, policy.Inbound, s)}}) == nil {
		t.Error("two inbound SAs share an spi")
	}
	apply(t, p, policy.Tx{DeleteSAs: []policy.SAID{1}})
	apply(t, p, policy.Tx{AddSAs: []policy.SA{SA(2, policy.Inbound, s)}})
	apply(t, p, policy.Tx{DeleteSAs: []policy.SAID{2}})
}

// freed gives SPIs back twice, late, and never drawn.
func freed(t *testing.T, p policy.Plane) {
	s := spi(t, p)
	apply(t, p, policy.Tx{AddSAs: []policy.SA{SA(1, policy.Inbound, s)}})
	p.FreeSPI(policy.ProtocolESP, s)
	lives(t, p, 1, true)
	if p.Apply(policy.Tx{AddSAs: []policy.SA{SA(2, policy.Inbound, s)}}) == nil {
		t.Error("the spi of a living SA was free")
	}
	idle := spi(t, p)
	p.FreeSPI(policy.ProtocolESP, idle)
	p.FreeSPI(policy.ProtocolESP, idle)
	p.FreeSPI(policy.ProtocolESP, idle^0x5555)
	// It may be another's now, or nobody's: an SA can have it.
	apply(t, p, policy.Tx{AddSAs: []policy.SA{SA(3, policy.Inbound, idle)}})
}

func life(t *testing.T, p policy.Plane) {
	lives(t, p, 1, false)
	apply(t, p, policy.Tx{AddSAs: []policy.SA{SA(1, policy.Inbound, spi(t, p)), SA(2, policy.Outbound, 0x1234)}})
	lives(t, p, 1, true)
	lives(t, p, 2, true)
	for _, id := range []policy.SAID{1, 2} {
		if s, err := p.State(id); err == nil && (s.Packets != 0 || s.Octets != 0 || s.Sequence != 0) {
			t.Errorf("new sa %d has counted %+v", id, s)
		}
	}
	path := SA(0, policy.Outbound, 0).Path
	path.Remote = netip.MustParseAddrPort("192.0.2.77:1024")
	apply(t, p, policy.Tx{UpdateSAs: []policy.SAUpdate{{ID: 1, Path: &path}}})
	if err := p.Apply(policy.Tx{UpdateSAs: []policy.SAUpdate{{ID: 2, Path: &path}}}); err != nil && !errors.Is(err, policy.ErrRekey) {
		t.Errorf("another path: %v", err)
	}
	lives(t, p, 2, true)
	apply(t, p, policy.Tx{DeleteSAs: []policy.SAID{1, 2}})
	lives(t, p, 1, false)
	lives(t, p, 2, false)
}

func algorithms(t *testing.T, p policy.Plane) {
	id := policy.SAID(100)
	for i := range policy.Algorithms {
		enc := &policy.Algorithms[i]
		if enc.Type != policy.TransformENCR || enc.Use&policy.UseESP == 0 {
			continue
		}
		for j := range policy.Algorithms {
			integ := &policy.Algorithms[j]
			if integ.Type != policy.TransformINTEG || integ.Use&policy.UseESP == 0 {
				continue
			}
			for _, esn := range []bool{false, true} {
				if esn && !p.Capabilities().ESN {
					continue
				}
				id++
				sa := SA(id, policy.Inbound, spi(t, p))
				sa.Encryption, sa.EncryptionKey, sa.ESN = enc.Transform(), policy.NewSecret(make([]byte, enc.KeyLen)), esn
				if !enc.AEAD {
					sa.Integrity, sa.IntegrityKey = integ.Transform(), policy.NewSecret(make([]byte, integ.KeyLen))
				}
				err := p.Apply(policy.Tx{AddSAs: []policy.SA{sa}})
				if errors.Is(err, policy.ErrNoAlgorithm) && !strings.HasPrefix(enc.Status, "MUST") {
					continue
				}
				if err != nil {
					t.Errorf("%s %s esn %v: %v", enc.Keyword, integ.Keyword, esn, err)
					continue
				}
				apply(t, p, policy.Tx{DeleteSAs: []policy.SAID{id}})
			}
			if enc.AEAD {
				break
			}
		}
	}
}

func families(t *testing.T, p policy.Plane) {
	inner := map[string]string{"10.1.0.0/16": "10.2.0.0/16", "fd01::/64": "fd02::/64"}
	outer := map[string]string{"192.0.2.1:4500": "192.0.2.2:4500", "[2001:db8::1]:4500": "[2001:db8::2]:4500"}
	id := policy.SAID(1)
	for il, ir := range inner {
		for ol, or := range outer {
			for _, dir := range []policy.Direction{policy.Inbound, policy.Outbound} {
				for _, encap := range []policy.Encap{policy.EncapUDP, policy.EncapRaw} {
					if encap == policy.EncapRaw && !p.Capabilities().RawESP {
						continue
					}
					id++
					sa := SA(id, dir, spi(t, p))
					sa.Path = policy.Path{Local: netip.MustParseAddrPort(ol), Remote: netip.MustParseAddrPort(or), Encap: encap}
					sa.Local = []policy.Selector{policy.PrefixSelector(netip.MustParsePrefix(il))}
					sa.Remote = []policy.Selector{policy.PrefixSelector(netip.MustParsePrefix(ir))}
					if err := p.Apply(policy.Tx{AddSAs: []policy.SA{sa}}); err != nil {
						t.Errorf("%s inside %s, %s, %s: %v", il, ol, dir, encap, err)
						continue
					}
					lives(t, p, id, true)
				}
			}
		}
	}
}

// transport mode is for planes that say they have it; others refuse it.
func transport(t *testing.T, p policy.Plane) {
	id := policy.SAID(1)
	for _, ends := range [][2]string{{"192.0.2.1:4500", "192.0.2.2:4500"}, {"[2001:db8::1]:4500", "[2001:db8::2]:4500"}} {
		for _, dir := range []policy.Direction{policy.Inbound, policy.Outbound} {
			id++
			sa := SA(id, dir, spi(t, p))
			sa.Mode = policy.Transport
			sa.Path.Local, sa.Path.Remote = netip.MustParseAddrPort(ends[0]), netip.MustParseAddrPort(ends[1])
			sa.Local, sa.Remote = []policy.Selector{policy.AddrSelector(sa.Path.Local.Addr())}, []policy.Selector{policy.AddrSelector(sa.Path.Remote.Addr())}
			err := p.Apply(policy.Tx{AddSAs: []policy.SA{sa}})
			switch {
			case p.Capabilities().Transport && err != nil:
				t.Errorf("%s %v: %v", dir, ends, err)
			case !p.Capabilities().Transport && err == nil:
				t.Errorf("%s %v: taken by a plane that says it has no transport mode", dir, ends)
			}
			lives(t, p, id, err == nil)
		}
	}
}

// options of an SA are the userspace plane's: others may refuse them.
// RFC 3948, section 5.2: in transport mode nothing in a packet to the NAT says which host behind it is meant.
func oneNAT(t *testing.T, p policy.Plane) {
	private := netip.MustParseAddr("192.168.1.2")
	host := func(id policy.SAID, port uint16, inside netip.Addr, peer string) policy.SA {
		sa := SA(id, policy.Outbound, policy.SPI(0x5000+id))
		sa.Mode, sa.OriginalLocal, sa.OriginalRemote, sa.Peer = policy.Transport, sa.Path.Local.Addr(), inside, peer
		sa.Path.Remote = netip.AddrPortFrom(sa.Path.Remote.Addr(), port)
		sa.Local, sa.Remote = []policy.Selector{policy.AddrSelector(sa.Path.Local.Addr())}, []policy.Selector{policy.AddrSelector(sa.Path.Remote.Addr())}
		return sa
	}
	apply(t, p, policy.Tx{AddSAs: []policy.SA{host(1, 61000, private, "fqdn:one.example.org")}})
	for _, c := range []struct {
		what    string
		sa      policy.SA
		refused string // who has the traffic
	}{
		{"another address", host(2, 62000, private.Next(), "fqdn:two.example.org"), "192.168.1.2,"},
		{"the same address behind a router of its own", host(3, 62000, private, "fqdn:two.example.org"), "fqdn:one.example.org, which has the same address 192.168.1.2 there"},
		{"itself, by another port", host(4, 62000, private, "fqdn:one.example.org"), ""},
		{"somebody who does not say who", host(5, 63000, private, ""), ""},
	} {
		err := p.Apply(policy.Tx{AddSAs: []policy.SA{c.sa}})
		if (err != nil) != (c.refused != "") || err != nil && (!strings.Contains(err.Error(), c.refused) || !strings.Contains(err.Error(), "use tunnel mode")) {
			t.Errorf("%s: %v", c.what, err)
		}
		lives(t, p, c.sa.ID, c.refused == "")
	}
}

func options(t *testing.T, p policy.Plane) {
	// The kernel makes headers and padding its own way, and says so.
	userspace := p.Capabilities().Name == "userspace"
	cbc, sha := policy.LookupKeyword("aes128"), policy.LookupKeyword("sha256")
	id := policy.SAID(1)
	for name, c := range map[string]struct {
		change     func(*policy.SA)
		impossible bool
		choice     bool // of userspace's
	}{
		"dscp":         {choice: true, change: func(sa *policy.SA) { sa.Header = policy.TunnelHeader{FixedDSCP: true, DSCP: 46} }},
		"hop limit":    {choice: true, change: func(sa *policy.SA) { sa.Header.HopLimit = 9 }},
		"df":           {choice: true, change: func(sa *policy.SA) { sa.Header.DF = policy.DFCopy }},
		"dummies":      {choice: true, change: func(sa *policy.SA) { sa.DummyInterval = time.Second }},
		"icmp errors":  {choice: true, change: func(sa *policy.SA) { sa.ICMPErrors = policy.ICMPNone }},
		"fragments":    {choice: true, change: func(sa *policy.SA) { sa.FragmentAfter = true }},
		"mss":          {choice: true, change: func(sa *policy.SA) { sa.MSS = 1200 }},
		"padding":      {choice: true, change: func(sa *policy.SA) { sa.TFC = 1000 }},
		"full padding": {choice: true, change: func(sa *policy.SA) { sa.TFC = policy.TFCToMTU }},
		"cut tag": {change: func(sa *policy.SA) {
			sa.Encryption, sa.EncryptionKey = cbc.Transform(), policy.NewSecret(make([]byte, cbc.KeyLen))
			sa.Integrity, sa.IntegrityKey, sa.ICV96 = sha.Transform(), policy.NewSecret(make([]byte, sha.KeyLen)), true
		}},
		"cut tag of a combined mode": {impossible: true, change: func(sa *policy.SA) { sa.ICV96 = true }},
	} {
		id++
		sa := SA(id, policy.Outbound, spi(t, p))
		c.change(&sa)
		err := p.Apply(policy.Tx{AddSAs: []policy.SA{sa}})
		impossible := c.impossible || c.choice && !userspace
		if err == nil && impossible {
			t.Errorf("%s was taken", name)
		}
		if err != nil && !impossible {
			t.Errorf("%s: %v", name, err)
		}
		lives(t, p, id, err == nil)
	}
}

func allOrNone(t *testing.T, p policy.Plane) {
	apply(t, p, policy.Tx{AddSAs: []policy.SA{SA(1, policy.Outbound, 0x1001)}})
	bad := SA(3, policy.Inbound, spi(t, p))
	bad.EncryptionKey = policy.NewSecret([]byte("short"))
	err := p.Apply(policy.Tx{
		PutPolicies: []policy.Policy{Policy(1, policy.Outbound)},
		AddSAs:      []policy.SA{SA(2, policy.Outbound, 0x1002), bad},
		DeleteSAs:   []policy.SAID{1},
	})
	if err == nil {
		t.Fatal("a key that is too short was taken")
	}
	lives(t, p, 1, true)
	lives(t, p, 2, false)
	lives(t, p, 3, false)
	if err := p.Apply(policy.Tx{AddSAs: []policy.SA{SA(4, policy.Outbound, 0x1004)}, DeleteSAs: []policy.SAID{99}}); err == nil {
		t.Error("the delete of an unknown sa succeeded")
	}
	lives(t, p, 4, false)
}

func unknown(t *testing.T, p policy.Plane) {
	if err := p.Apply(policy.Tx{DeleteSAs: []policy.SAID{5}}); !errors.Is(err, policy.ErrNoSA) {
		t.Errorf("delete: %v, want %v", err, policy.ErrNoSA)
	}
	if err := p.Apply(policy.Tx{UpdateSAs: []policy.SAUpdate{{ID: 5, Activate: true}}}); !errors.Is(err, policy.ErrNoSA) {
		t.Errorf("update: %v, want %v", err, policy.ErrNoSA)
	}
	apply(t, p, policy.Tx{AddSAs: []policy.SA{SA(1, policy.Outbound, 0x1001)}})
	if p.Apply(policy.Tx{AddSAs: []policy.SA{SA(1, policy.Outbound, 0x1002)}}) == nil {
		t.Error("an id was taken twice")
	}
}

// order replaces an SA in one transaction.
func order(t *testing.T, p policy.Plane) {
	apply(t, p, policy.Tx{
		PutPolicies: []policy.Policy{Policy(1, policy.Outbound), Policy(2, policy.Inbound)},
		AddSAs:      []policy.SA{SA(1, policy.Outbound, 0x1001)},
	})
	apply(t, p, policy.Tx{AddSAs: []policy.SA{SA(2, policy.Outbound, 0x1002)}, DeleteSAs: []policy.SAID{1}})
	lives(t, p, 1, false)
	lives(t, p, 2, true)
	apply(t, p, policy.Tx{DeleteSAs: []policy.SAID{2}, DeletePolicies: []policy.PolicyID{1, 2}})
}

func wiped(t *testing.T, p policy.Plane) {
	for _, dir := range []policy.Direction{policy.Inbound, policy.Outbound} {
		sa := SA(policy.SAID(dir)+7, dir, spi(t, p))
		octets := sa.EncryptionKey.Reveal()
		apply(t, p, policy.Tx{AddSAs: []policy.SA{sa}})
		apply(t, p, policy.Tx{DeleteSAs: []policy.SAID{sa.ID}})
		if !bytes.Equal(octets, make([]byte, len(octets))) {
			t.Errorf("the key of a deleted %s SA is still there", dir)
		}
	}
}

func concurrent(t *testing.T, p policy.Plane) {
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for n := range 20 {
				s, err := p.AllocSPI(policy.ProtocolESP)
				if err != nil {
					t.Error(err)
					return
				}
				id := policy.SAID(1 + g*1000 + n)
				if err := p.Apply(policy.Tx{AddSAs: []policy.SA{SA(id, policy.Inbound, s)}}); err != nil {
					t.Error(err)
				}
				lives(t, p, id, true)
				if err := p.Apply(policy.Tx{DeleteSAs: []policy.SAID{id}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func putAgain(t *testing.T, p policy.Plane) {
	one := Policy(1, policy.Outbound)
	apply(t, p, policy.Tx{PutPolicies: []policy.Policy{one}})
	one.Remote = []policy.Selector{policy.PrefixSelector(netip.MustParsePrefix("10.3.0.0/16"))}
	apply(t, p, policy.Tx{PutPolicies: []policy.Policy{one}})
	apply(t, p, policy.Tx{FailAcquires: []policy.PolicyID{1, 2}})
	apply(t, p, policy.Tx{DeletePolicies: []policy.PolicyID{1}})
}
