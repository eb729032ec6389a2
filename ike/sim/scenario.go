package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"coati/ike"
	"coati/policy"
)

// Scenario is a course of events for pairs of gateways: for a while the network is bad and things happen, then it is quiet
// and the pairs must agree within Settle. A scenario and a seed are a whole run.
type Scenario struct {
	Name, About string
	Pairs       int
	Chaos       time.Duration
	// Network rules during Chaos; afterwards datagrams only take their Delay.
	Network  Network
	Attacker Attacker
	// Tunnel changes both ends' configuration; second says which of the two it is.
	Tunnel func(t *policy.PeerTunnel, second bool)
	// Limits changes what the second end's engine is made with.
	Limits func(*ike.Limits)
	// Act does something to a pair; it is called every Every on average.
	Act   func(w *World, a, b *Host)
	Every time.Duration
	// Talk is the time between two packets on average; zero: 120 ms.
	Talk time.Duration
	// Lossless: no packet of a pair may be lost, since the network loses none, and no peer be taken for dead.
	Lossless bool
}

// Pair is two gateways with a tunnel "t" and a child "lan".
type Pair struct {
	A, B *Host
	sent [2]uint64
}

// RetransmissionLimit is how long a peer's silence is borne, in the longest case.
func RetransmissionLimit(l ike.Limits) time.Duration {
	sum, gap := time.Duration(0), l.RetransmitFirst
	for range l.RetransmitTries + 1 {
		sum += gap + gap/10
		gap = time.Duration(float64(gap) * l.RetransmitFactor)
	}
	return sum
}

// Limits of scenarios: tunnels that are refused are soon tried again, so that Settle is about SAs.
func scenarioLimits() ike.Limits {
	l := ike.DefaultLimits()
	l.RetryMax = 4 * time.Second
	return l
}

const scenarioDPD = 10 * time.Second

// Settle is the time after Chaos by which all must agree: the retransmission limit and one liveness period, and what it
// takes to begin again.
func Settle() time.Duration {
	l := scenarioLimits()
	return RetransmissionLimit(l) + scenarioDPD + 2*l.RetryMax
}

// Scenarios are those that every seed runs through.
func Scenarios() []Scenario {
	rekey := func(w *World, a, b *Host) {
		h, child := []*Host{a, b}[w.Rand.IntN(2)], []string{"", "lan"}[w.Rand.IntN(2)]
		h.Command(ike.Rekey, "t", child)
		if w.Rand.IntN(2) == 0 { // crossing
			[]*Host{a, b}[w.Rand.IntN(2)].Command(ike.Rekey, "t", child)
		}
	}
	return []Scenario{
		{
			Name: "loss", About: "30 % loss, duplicates, reordering; rekeys, deletes, crashes", Pairs: 1, Chaos: 3 * time.Minute, Every: 12 * time.Second,
			Network: Network{Loss: 0.3, Duplicate: 0.1, Jitter: 200 * time.Millisecond},
			Act: func(w *World, a, b *Host) {
				switch w.Rand.IntN(5) {
				case 0:
					h := []*Host{a, b}[w.Rand.IntN(2)]
					h.Crash()
					w.After(time.Duration(w.Rand.IntN(20))*time.Second, h.Restart)
				case 1:
					[]*Host{a, b}[w.Rand.IntN(2)].Command(ike.Up, "t", "")
				default:
					rekey(w, a, b)
				}
			},
		},
		eapScenario(rekey),
		{
			Name: "crossing", About: "rekeys from both ends at once under traffic, on a network that only reorders", Pairs: 1, Chaos: 20 * time.Second, Every: 700 * time.Millisecond,
			Network: Network{Jitter: 8 * time.Millisecond}, Act: rekey, Lossless: true,
		},
		{
			Name: "retransmission", About: "IKE loses a tenth of its datagrams, ESP none, while both ends rekey", Pairs: 1, Chaos: time.Minute, Every: 4 * time.Second,
			Network: Network{LossIKE: 0.1, Jitter: 8 * time.Millisecond}, Act: rekey, Lossless: true,
		},
		{
			Name: "lifetimes", About: "children of 10 s, IKE SAs of 25 s, on a network that loses a little", Pairs: 1, Chaos: 2 * time.Minute, Every: time.Minute,
			Network: Network{Loss: 0.05, Delays: Exponential(20 * time.Millisecond)},
			Tunnel: func(t *policy.PeerTunnel, _ bool) {
				t.Lifetime = 25 * time.Second
				t.Children[0].Lifetime = policy.Lifetime{SoftTime: 8 * time.Second, HardTime: 10 * time.Second}
			},
		},
		{
			Name: "reauth", About: "authentication anew from both ends, with rekeys between, under traffic", Pairs: 1, Chaos: time.Minute, Every: 3 * time.Second,
			Network: Network{Jitter: 8 * time.Millisecond}, Act: rekey, Lossless: true,
			Tunnel: func(t *policy.PeerTunnel, _ bool) { t.Reauth = 12 * time.Second },
		},
		{
			Name: "attacker", About: "somebody on the path mutates, replays, reflects and injects", Pairs: 1, Chaos: 2 * time.Minute, Every: 9 * time.Second,
			Network: Network{Loss: 0.05, Jitter: 30 * time.Millisecond}, Attacker: Attacker{Mutate: 0.4, Replay: 0.4, Reflect: 0.2, Inject: 0.5}, Act: rekey,
		},
		{
			Name: "partition", About: "the two ends lose each other for up to two minutes, and rekey meanwhile", Pairs: 1, Chaos: 5 * time.Minute, Every: 20 * time.Second,
			Network: Network{Delays: TwoPaths(0, 300*time.Millisecond, 0.2)},
			Act: func(w *World, a, b *Host) {
				if w.Rand.IntN(2) == 0 {
					w.Net.Parted = func(netip.Addr, netip.Addr) bool { return true }
					w.After(time.Duration(w.Rand.IntN(120))*time.Second, func() { w.Net.Parted = nil })
					return
				}
				rekey(w, a, b)
			},
		},
		{
			Name: "minimal", About: "one end answers NO_ADDITIONAL_SAS to every CREATE_CHILD_SA; rekeys become new IKE SAs, under traffic", Pairs: 1, Chaos: 40 * time.Second, Every: 2 * time.Second,
			Network: Network{Jitter: 8 * time.Millisecond}, Lossless: true,
			Act:    func(w *World, a, _ *Host) { a.Command(ike.Rekey, "t", []string{"", "lan"}[w.Rand.IntN(2)]) },
			Tunnel: func(t *policy.PeerTunnel, second bool) { listens(t, second) },
			Limits: func(l *ike.Limits) { l.InitialOnly = true },
		},
		{
			Name: "certificates", About: "authentication by certificates, anew from both ends, with loss and rekeys", Pairs: 1, Chaos: time.Minute, Every: 3 * time.Second,
			Network: Network{Loss: 0.1, Jitter: 20 * time.Millisecond}, Act: rekey,
			Tunnel: func(t *policy.PeerTunnel, second bool) {
				certified(t, second)
				t.Reauth = 12 * time.Second
			},
		},
		{
			Name: "fragments", About: "long certificates over a hop of 700 octets, so that IKE_AUTH is cut smaller; loss, and an attacker who knows fragments", Pairs: 1, Chaos: time.Minute, Every: 5 * time.Second,
			Network:  Network{Loss: 0.05, Duplicate: 0.05, Jitter: 20 * time.Millisecond, MTU: 700},
			Attacker: Attacker{Mutate: 0.1, Replay: 0.2, Fragment: 0.5, DropFragment: 0.02}, Act: rekey,
			Tunnel: func(t *policy.PeerTunnel, second bool) {
				certified(t, second)
				if t.IKE = policy.DefaultIKE()[:1]; !second {
					t.Reauth = 10 * time.Second
				}
				for range 4 { // the same one again: it counts for its size
					t.Credential.Chain = append(t.Credential.Chain, t.Credential.Chain[0])
				}
			},
		},
		{
			Name: "post-quantum", About: "ML-KEM-768 beside X25519 in IKE SAs and children, set up and rekeyed from both ends, with loss and duplicates, over a hop of 700 octets", Pairs: 1, Chaos: time.Minute, Every: 3 * time.Second,
			Network: Network{Loss: 0.15, Duplicate: 0.1, Jitter: 50 * time.Millisecond, MTU: 700}, Act: rekey,
			Tunnel: func(t *policy.PeerTunnel, second bool) {
				hybrid(t)
				t.Lifetime, t.Childless = 25*time.Second, second
			},
		},
		{
			Name: "post-quantum crossing", About: "the same with rekeys from both ends at once under traffic, on a network that only reorders", Pairs: 1, Chaos: 20 * time.Second, Every: 700 * time.Millisecond,
			Network: Network{Jitter: 8 * time.Millisecond}, Act: rekey, Lossless: true,
			Tunnel: func(t *policy.PeerTunnel, _ bool) { hybrid(t) },
		},
		{
			Name: "moving", About: "one end's address changes, at once or with the old one kept for a while; rekeys", Pairs: 1, Chaos: 3 * time.Minute, Every: 10 * time.Second,
			Network: Network{Loss: 0.05, Jitter: 20 * time.Millisecond},
			Act: func(w *World, a, b *Host) {
				if w.Rand.IntN(2) == 0 {
					rekey(w, a, b)
					return
				}
				to := a.Addr.As4()
				to[1] = byte(32 + w.Rand.IntN(4))
				if netip.AddrFrom4(to) != a.Addr {
					a.Move(netip.AddrFrom4(to), w.Rand.IntN(2) == 0)
				}
			},
			Tunnel: func(t *policy.PeerTunnel, second bool) {
				if listens(t, second); second {
					t.Remote, t.RemoteID = netip.Addr{}, policy.Identity{Type: policy.IDFQDN, Data: []byte("mobile")}
				} else {
					t.LocalID = policy.Identity{Type: policy.IDFQDN, Data: []byte("mobile")}
				}
			},
		},
		{
			Name: "mobike", About: "both ends' addresses change and the IKE SA goes along, also behind a NAT and back; loss, rekeys, an attacker", Pairs: 1, Chaos: 2 * time.Minute, Every: 8 * time.Second,
			Network: Network{Loss: 0.05, Jitter: 20 * time.Millisecond}, Attacker: Attacker{Mutate: 0.1, Reflect: 0.1, Inject: 0.2},
			Act: func(w *World, a, b *Host) {
				if w.Rand.IntN(2) == 0 {
					rekey(w, a, b)
					return
				}
				to, h := a.Addr.As4(), a
				if w.Rand.IntN(3) == 0 {
					to, h = b.Addr.As4(), b
				}
				// The last octet but one says which host; of the second one 48 and on are its addresses, 36 and 37 are behind NATs.
				to[1] = byte(32 + w.Rand.IntN(6))
				if h == b {
					to[1] = byte(48 + w.Rand.IntN(4))
				}
				at := netip.AddrFrom4(to)
				if to[1] >= 36 && h == a && w.nats[at] == nil {
					outside := to
					outside[1] += 4
					w.AddNAT(at, netip.AddrFrom4(outside))
				}
				if at != h.Addr {
					h.Move(at, w.Rand.IntN(2) == 0)
				}
			},
			Tunnel: func(t *policy.PeerTunnel, second bool) {
				t.MOBIKE = true
				if listens(t, second); second {
					t.Remote, t.RemoteID = netip.Addr{}, policy.Identity{Type: policy.IDFQDN, Data: []byte("mobile")}
					t.LocalID = policy.Identity{Type: policy.IDFQDN, Data: []byte("hub")}
				} else {
					t.LocalID, t.RemoteID = policy.Identity{Type: policy.IDFQDN, Data: []byte("mobile")}, policy.Identity{Type: policy.IDFQDN, Data: []byte("hub")}
				}
			},
		},
		{
			Name: "reload", About: "timers and a child change under traffic, with rekeys between", Pairs: 1, Chaos: 40 * time.Second, Every: 2 * time.Second,
			Network: Network{Jitter: 8 * time.Millisecond}, Lossless: true,
			Act: func(w *World, a, b *Host) {
				h := []*Host{a, b}[w.Rand.IntN(2)]
				t := h.tunnels[0]
				t.Children = slices.Clone(t.Children)
				switch w.Rand.IntN(4) {
				case 0:
					t.DPD, t.Keepalive = time.Duration(5+w.Rand.IntN(10))*time.Second, time.Duration(w.Rand.IntN(20))*time.Second
				case 1:
					t.Lifetime, t.Reauth = time.Duration(20+w.Rand.IntN(60))*time.Second, time.Duration(20+w.Rand.IntN(60))*time.Second
				case 2:
					t.Children[0].Lifetime = policy.Lifetime{SoftTime: time.Duration(5+w.Rand.IntN(30)) * time.Second, HardTime: time.Minute}
				default:
					rekey(w, a, b)
					return
				}
				h.Configure(t)
			},
		},
	}
}

// listens makes the second end one that only listens.
func listens(t *policy.PeerTunnel, second bool) {
	if second {
		t.Start = policy.StartListen
	}
}

// hybrid has additional key exchanges wherever there may be some.
func hybrid(t *policy.PeerTunnel) {
	t.IKE = []policy.Proposal{policy.MustProposal(policy.ProtocolIKE, "aes128gcm16-prfsha256-x25519-ke1_mlkem768")}
	t.Children[0].ESP = []policy.Proposal{policy.MustProposal(policy.ProtocolESP, "aes128gcm16-x25519-ke1_mlkem768-ke2_mlkem512")}
}

// Result of a run.
type Result struct {
	World  *World
	Pairs  []*Pair
	Faults []error
}

// Run plays the scenario. The world is stopped at the end.
func (s Scenario) Run(seed uint64, prepare ...func(*World)) Result {
	w := NewWorld(seed)
	w.Net = s.Network
	w.Net.Delay = max(w.Net.Delay, 5*time.Millisecond)
	if s.Attacker.Mutate+s.Attacker.Replay+s.Attacker.Inject+s.Attacker.Fragment > 0 {
		a := s.Attacker
		w.Attacker = &a
	}
	for _, f := range prepare {
		f(w)
	}
	r := Result{World: w}
	for i := range s.Pairs {
		r.Pairs = append(r.Pairs, s.pair(w, i))
	}
	for _, p := range r.Pairs {
		s.live(w, p)
	}
	w.Run(s.Chaos)
	w.Net, w.Attacker = Network{Delay: w.Net.Delay}, nil
	w.Run(Settle())
	r.Faults = s.judge(w, r.Pairs)
	return r
}

func (s Scenario) pair(w *World, i int) *Pair {
	addr := func(end int) netip.Addr { return netip.AddrFrom4([4]byte{172, byte(16 + end), byte(i >> 8), byte(i)}) }
	p := &Pair{}
	for end, h := range []**Host{&p.A, &p.B} {
		*h = w.AddHost(fmt.Sprintf("%c%d", 'a'+end, i), addr(end).String())
		(*h).Limits = scenarioLimits()
		if end == 1 && s.Limits != nil {
			s.Limits(&(*h).Limits)
		}
		(*h).boot()
	}
	for end, h := range []*Host{p.A, p.B} {
		net := func(end int) []policy.Selector {
			return []policy.Selector{policy.PrefixSelector(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(end), 0, 0}), 16))}
		}
		t := policy.PeerTunnel{
			Name: "t", Version: 2, Remote: addr(1 - end), PSK: policy.NewSecret([]byte("a shared key")), IKE: policy.DefaultIKE(), DPD: scenarioDPD, Start: policy.StartNow,
			Children: []policy.Child{{Name: "lan", Local: net(end), Remote: net(1 - end), ESP: policy.DefaultESP(), ReplayWindow: 4096}},
		}
		if s.Tunnel != nil {
			s.Tunnel(&t, end == 1)
		}
		// Not all at the same moment.
		w.After(time.Duration(w.Rand.IntN(1000))*time.Millisecond, func() { h.Configure(t) })
	}
	return p
}

// live has the pair talk, and things happen to it, until Chaos is over.
func (s Scenario) live(w *World, p *Pair) {
	end := w.Now.Add(s.Chaos)
	var talk, act func()
	talk = func() {
		if !w.Now.Before(end) {
			return
		}
		for i, h := range []*Host{p.A, p.B} {
			if h.alive && len(h.tunnels) > 0 {
				h.Say(p.sent[i], "t", "lan")
				p.sent[i]++
			}
		}
		if s.Talk > 0 {
			w.After(time.Duration(w.Rand.Int64N(2*int64(s.Talk))), talk)
			return
		}
		w.After(time.Duration(20+w.Rand.IntN(200))*time.Millisecond, talk)
	}
	act = func() {
		if !w.Now.Before(end) {
			return
		}
		if s.Act != nil {
			s.Act(w, p.A, p.B)
		}
		w.After(time.Duration(w.Rand.Int64N(2*int64(s.Every))), act)
	}
	var start func()
	start = func() {
		if s.Lossless && !(p.A.Up("t") && p.B.Up("t")) {
			// Who asks before the other end is configured is refused, and so is what waits: not what this is about.
			w.After(100*time.Millisecond, start)
			return
		}
		talk()
		w.After(s.Every, act)
	}
	w.After(1500*time.Millisecond, start)
}

// judge is what must hold at the end (see also World.Check).
func (s Scenario) judge(w *World, pairs []*Pair) []error {
	w.RunUntil(3*time.Second, func() bool { // a rekey may be under way
		for _, p := range pairs {
			for _, h := range []*Host{p.A, p.B} {
				if sas, children := h.Established("t"); sas != 1 || children != 1 {
					return false
				}
			}
		}
		return true
	})
	faults := w.Check()
	for range 30 { // so may a delete
		if len(faults) == 0 {
			break
		}
		w.Run(100 * time.Millisecond)
		faults = w.Check()
	}
	var last []func()
	for _, p := range pairs {
		ends := []*Host{p.A, p.B}
		for _, h := range ends {
			if sas, children := h.Established("t"); sas != 1 || children != 1 {
				faults = append(faults, fmt.Errorf("%s has %d IKE SAs with %d children", h.Name, sas, children))
			}
		}
		for i, h := range ends {
			if s.Lossless && h.Said(ike.ClosedDead.String()) {
				faults = append(faults, fmt.Errorf("%s gave up a peer that lives", h.Name))
			}
			peer := ends[1-i]
			got := len(peer.Plane.Received)
			if s.Lossless && uint64(got) != p.sent[i] {
				faults = append(faults, fmt.Errorf("%s sent %d packets, %d arrived, %d dropped, %d refused", h.Name, p.sent[i], got, len(peer.Plane.Dropped), len(h.Plane.Refused)))
			}
			h.Say(1<<40, "t", "lan")
			last = append(last, func() {
				if len(peer.Plane.Received) != got+1 {
					faults = append(faults, fmt.Errorf("a packet of %s does not arrive", h.Name))
				}
			})
		}
	}
	w.Run(time.Second)
	for _, f := range last {
		f()
	}
	return faults
}
