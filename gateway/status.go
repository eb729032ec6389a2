package gateway

import (
	"context"
	"fmt"
	"os"
	"time"

	"coati/esp/batch"
	"coati/gateway/control"
	"coati/ike"
	"coati/policy"
)

// Status is everything there is to see.
func (g *Gateway) Status(ctx context.Context) (control.Status, error) {
	s := control.Status{Version: BuildVersion()}
	var tunnels []ike.TunnelStatus
	err := g.loop.call(ctx, func() {
		tunnels = g.engine.Status()
		s.Gateway = g.describe()
	})
	if err != nil {
		return s, err
	}
	s.Tunnels = make([]control.Tunnel, 0, len(tunnels))
	for i := range tunnels {
		s.Tunnels = append(s.Tunnels, g.tunnel(&tunnels[i]))
	}
	return s, nil
}

// describe runs on the loop's goroutine.
func (g *Gateway) describe() control.Gateway {
	d := control.Gateway{
		PID: os.Getpid(), Plane: g.carrier.Capabilities().Name, Started: g.started, TUN: g.machine.device.Name(), MTU: g.machine.layout.mtu, Queues: len(g.machine.queues),
		TUNOffloads: g.machine.device.Offloads(), Table: g.machine.host.Table(), Drops: g.plane.Counters().Drops,
	}
	if g.carrier == policy.Plane(g.plane) {
		d.Ciphers, _ = batch.Kernel()
	}
	if g.machine.guard != nil {
		if n, err := g.machine.guard.Count(); err == nil {
			d.Guard = &control.Guard{Packets: n.Packets, Octets: n.Octets}
		}
	}
	if g.loop.keys != nil {
		d.KeyLog = g.loop.keys.folder
	}
	for _, q := range g.machine.queues {
		d.QueueFrames = append(d.QueueFrames, control.Queue{Read: q.read.Load(), Written: q.written.Load()})
	}
	var full uint64
	for _, l := range g.machine.listeners.table.Load().all {
		full += l.lost()
		d.Sockets = append(d.Sockets,
			control.Socket{Address: "udp " + l.ike.Local().String(), Sockets: len(l.ike.Sockets()), Offloads: l.ike.Offloads()},
			control.Socket{Address: "udp " + l.natt.Local().String(), Sockets: len(l.natt.Sockets()), Offloads: l.natt.Offloads()},
			control.Socket{Address: "esp " + l.addr.String(), Sockets: 1, Offloads: l.carrier()})
	}
	d.LastRefused = refused(g.engine.Refused())
	var clear uint64
	if d.Guard != nil {
		clear = d.Guard.Packets
	}
	st := g.engine.Stats
	for reason, n := range map[ownReason]uint64{
		dropClear: clear, dropSocketFull: full, dropTUNFull: g.machine.device.Lost(), dropIKEFull: g.loop.overflow.Load(), dropIKEMalformed: st.Malformed,
		dropIKESPI: st.UnknownSPI, dropIKEVersion: st.WrongVersion + st.NoProtocol, dropIKEHalfOpen: st.HalfOpenFull + st.AddressFull + st.JobsFull,
	} {
		if n > 0 {
			d.Drops[ownReasons[reason].name] = n
		}
	}
	d.DropCounts = dropCounts(d.Drops)
	return d
}

func (g *Gateway) tunnel(t *ike.TunnelStatus) control.Tunnel {
	c := t.Config
	out := control.Tunnel{
		Name: t.Name, State: control.StateDown, Start: c.Start.String(), Failures: t.Failures, LastError: t.LastError, RetryAt: moment(t.RetryAt),
		Remote: "any", Aggressive: c.V1.Aggressive, NoPath: t.NoPath, LastRefused: refused(t.Refused), IKE: []control.IKE{}, Children: []control.Child{},
	}
	if c.Local.IsValid() {
		out.Local = c.Local.String()
	}
	switch {
	case c.Remote.IsValid():
		out.Remote = c.Remote.String()
	case c.RemoteHost != "":
		out.Remote = c.RemoteHost
	}
	rank := map[string]int{control.StateDown: 0, control.StateClosing: 1, control.StateConnecting: 2, control.StateUp: 3}
	for i := range t.SAs {
		sa := &t.SAs[i]
		if state := tunnelState(sa.State); rank[state] > rank[out.State] {
			out.State = state
		}
		out.IKE = append(out.IKE, ikeStatus(sa))
	}
	for i := range c.Children {
		out.Children = append(out.Children, g.child(&c.Children[i], t.SAs, out.State))
	}
	if out.State == control.StateDown && out.RetryAt == nil {
		out.Next = whatNext(c)
	}
	return out
}

func refused(r ike.Refusal) *control.Refused {
	if r.At.IsZero() {
		return nil
	}
	return &control.Refused{At: r.At, Peer: r.Peer.String(), Reason: r.Reason}
}

// whatNext says what will bring a tunnel up that nobody is working on.
func whatNext(c *policy.PeerTunnel) string {
	switch {
	case c.Start == policy.StartListen:
		return "waits for the peer to begin"
	case !c.Remote.IsValid() && c.RemoteHost == "":
		return "waits for the peer to begin, as its address may be any"
	}
	return "waits for traffic, or coati up " + c.Name
}

func tunnelState(s ike.SAState) string {
	switch s {
	case ike.Connecting:
		return control.StateConnecting
	case ike.Established:
		return control.StateUp
	case ike.Closing:
		return control.StateClosing
	}
	return control.StateDown
}

func ikeStatus(i *ike.Info) control.IKE {
	var given *control.Given
	if g := i.Given; g != nil {
		given = &control.Given{Addresses: words(g.Addresses), DNS: words(g.DNS), Domains: g.Domains}
	}
	return control.IKE{
		Leased: words(i.Leased), Given: given,
		State: i.State.String(), Version: i.Version, Initiator: i.Initiator, LocalSPI: fmt.Sprintf("%016x", i.LocalSPI), RemoteSPI: fmt.Sprintf("%016x", i.PeerSPI),
		Local: i.Path.Local.String(), Remote: i.Path.Remote.String(), LocalID: i.LocalID.String(), RemoteID: i.RemoteID.String(), Proposal: proposal(i.Proposal),
		Established: moment(i.EstablishedAt), LastReceived: moment(i.LastReceived), NATLocal: i.NATLocal, NATRemote: i.NATRemote, Doing: i.Doing,
	}
}

func proposal(p policy.Proposal) string {
	if len(p.Transforms) == 0 {
		return ""
	}
	return p.String()
}

func (g *Gateway) child(c *policy.Child, sas []ike.Info, tunnel string) control.Child {
	out := control.Child{Name: c.Name, State: control.StateDown, LocalTS: words(c.Local), RemoteTS: words(c.Remote), SAs: []control.Pair{}}
	if tunnel == control.StateConnecting {
		out.State = control.StateConnecting
	}
	for i := range sas {
		for _, ci := range sas[i].Children {
			if ci.Name != c.Name {
				continue
			}
			in, sent := g.sa(ci.In, ci.InSPI), g.sa(ci.Out, ci.OutSPI)
			out.SAs = append(out.SAs, control.Pair{
				State: ci.State, In: in, Out: sent, Proposal: proposal(ci.Proposal), Mode: ci.Mode.String(), Encap: ci.Encap.String(),
				Established: ci.EstablishedAt, LocalTS: words(ci.Local), RemoteTS: words(ci.Remote),
			})
			if sas[i].State == ike.Established {
				out.State = control.StateUp
			}
		}
	}
	return out
}

// sa reads the counters of one SA; one that just ended has none.
func (g *Gateway) sa(id policy.SAID, spi policy.SPI) control.SA {
	out := control.SA{SPI: spi.String()}
	st, err := g.carrier.State(id)
	if err != nil {
		return out
	}
	out.Packets, out.Octets, out.Sequence, out.LastUsed, out.Drops = st.Packets, st.Octets, st.Sequence, moment(st.LastUsed), st.Drops
	return out
}

func words[T fmt.Stringer](s []T) []string {
	out := make([]string, len(s))
	for i := range s {
		out[i] = s[i].String()
	}
	return out
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
