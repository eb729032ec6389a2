package gateway

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"time"

	"coati/gateway/control"
	"coati/packet"
	"coati/policy"
	"coati/policy/config"
	"coati/policy/legacy"
)

// What there is of associations and policies, negotiated ones too, as setkey prints it.

// Script performs a script of setkey's, all or nothing, on what runs. Keys are shown to root alone.
func (g *Gateway) Script(ctx context.Context, r control.Script) (control.ScriptDone, error) {
	s, faults := legacy.ParseSetkey(r.File, []byte(r.Text))
	if faults != nil {
		return control.ScriptDone{Faults: sayFaults(faults)}, nil
	}
	var done control.ScriptDone
	var err error
	cerr := g.loop.call(ctx, func() {
		view := &viewer{g: g, request: r}
		next, faults := g.manual.db.Evaluate(s, legacy.World{Show: view.show, Negotiated: g.negotiated()})
		if faults == nil && view.err == nil {
			if !slices.Equal(next.SAs, g.manual.db.SAs) || !slices.Equal(next.Policies, g.manual.db.Policies) {
				faults = g.become(next)
			}
		}
		done.Faults, err = sayFaults(faults), view.err
		if faults == nil {
			done.Output = view.out.String()
		}
	})
	return done, errors.Join(cerr, err)
}

// negotiated tells IKE's associations by their addresses and SPI.
func (g *Gateway) negotiated() func(src, dst netip.Addr, spi policy.SPI) bool {
	type name struct {
		src, dst netip.Addr
		spi      policy.SPI
	}
	var names map[name]bool // made when first asked for
	return func(src, dst netip.Addr, spi policy.SPI) bool {
		if names == nil {
			names = map[name]bool{}
			for _, e := range g.entries(false) {
				if g.manual.byID[e.SA.ID] == nil {
					l := g.liveAssociation(nil, &e)
					names[name{l.Src, l.Dst, l.SPI}] = true
				}
			}
		}
		return names[name{src, dst, spi}]
	}
}

func sayFaults(faults []config.Fault) []string {
	var out []string
	for _, f := range faults {
		out = append(out, f.String())
	}
	return out
}

// viewer prints what a script asks to see.
type viewer struct {
	g       *Gateway
	request control.Script
	out     bytes.Buffer
	err     error
}

func (v *viewer) show(op *legacy.Operation, db *legacy.Database) {
	switch op.Verb {
	case legacy.PolicyDump:
		list := v.g.liveEntries(db)
		if len(list) == 0 {
			v.out.WriteString("No SPD entries.\n")
		}
		v.err = errors.Join(v.err, legacy.WritePolicies(&v.out, list, v.request.Ports))
	case legacy.Dump:
		list := v.g.liveAssociations(db, v.request)
		if len(list) == 0 {
			v.out.WriteString("No SAD entries.\n")
		}
		v.err = errors.Join(v.err, legacy.WriteAssociations(&v.out, time.Now(), list, v.request.Ports))
	case legacy.Get:
		list := v.g.liveAssociations(db, v.request)
		list = slices.DeleteFunc(list, func(a legacy.LiveAssociation) bool {
			return a.State == legacy.Dead || a.Src != op.SA.Src || a.Dst != op.SA.Dst || a.SPI != op.SA.SPI
		})
		v.err = errors.Join(v.err, legacy.WriteAssociations(&v.out, time.Now(), list, v.request.Ports))
	}
}

// liveAssociations lists what IKE negotiated, what a database has, what traffic waits for and, if asked, what has ended.
func (g *Gateway) liveAssociations(db *legacy.Database, r control.Script) []legacy.LiveAssociation {
	shown := make(map[*legacy.Association]bool, len(db.SAs))
	for _, a := range db.SAs {
		shown[a] = true
	}
	var list []legacy.LiveAssociation
	for _, e := range g.entries(r.Root) {
		a := g.manual.byID[e.SA.ID]
		if a != nil && !shown[a] {
			continue
		}
		delete(shown, a)
		l := g.liveAssociation(a, &e)
		l.Hidden = !r.Root
		list = append(list, l)
	}
	for _, a := range db.SAs {
		if shown[a] { // the script that asks has added it
			list = append(list, legacy.LiveAssociation{Association: *a, State: legacy.Mature, Created: time.Now(), Hidden: !r.Root, PID: os.Getpid()})
		}
	}
	list = append(list, g.larval()...)
	if r.All {
		list = append(list, g.manual.dead...)
	}
	return list
}

// liveAssociation is an SA of the plane in setkey's words; a is nil for what IKE negotiated.
func (g *Gateway) liveAssociation(a *legacy.Association, e *policy.SAEntry) legacy.LiveAssociation {
	sa := &e.SA
	l := legacy.LiveAssociation{
		Association: legacy.Association{
			SPI: sa.SPI, Encap: sa.Path.Encap, Mode: sa.Mode, ReqID: sa.ReqID, Window: sa.ReplayWindow, Lifetime: sa.Lifetime,
			Encryption: sa.Encryption, Integrity: sa.Integrity, ICV96: sa.ICV96, EncryptionKey: sa.EncryptionKey, IntegrityKey: sa.IntegrityKey,
		},
		State: legacy.Mature, Created: sa.Added, Used: e.State.LastUsed, Packets: e.State.Packets, Octets: e.State.Octets, PID: os.Getpid(),
	}
	src, dst := sa.Path.Local, sa.Path.Remote
	if sa.Direction == policy.Inbound {
		src, dst = dst, src
	}
	l.Src, l.Dst = src.Addr(), dst.Addr()
	if sa.Path.Encap == policy.EncapUDP {
		l.SrcPort, l.DstPort = src.Port(), dst.Port()
	}
	if a != nil {
		l.Mode, l.ReqID, l.Window = a.Mode, a.ReqID, a.Window
		if l.Mode == legacy.AnyMode {
			l.Mode = sa.Mode
		}
	}
	switch {
	case e.Dead:
		l.State = legacy.Dead
	case e.Dying:
		l.State = legacy.Dying
	}
	return l
}

// larval is what packets wait for: no SPI is known yet.
func (g *Gateway) larval() []legacy.LiveAssociation {
	var list []legacy.LiveAssociation
	for _, p := range g.machine.layout.policies {
		if p.Direction != policy.Outbound || p.Action != policy.Protect {
			continue
		}
		if n, _ := g.plane.Waiting(p.ID); n == 0 {
			continue
		}
		l := legacy.LiveAssociation{State: legacy.Larval, PID: os.Getpid(), Association: legacy.Association{Mode: p.Mode}}
		l.Src, l.Dst = g.ends(&p)
		list = append(list, l)
	}
	return list
}

// ends are the addresses an outbound policy's associations have, as far as they are known before there is one.
func (g *Gateway) ends(p *policy.Policy) (local, remote netip.Addr) {
	for _, e := range g.manual.db.Policies {
		if g.manual.rules[e.Selection].id != p.ID {
			continue
		}
		if e.Request.Src.IsValid() {
			return e.Request.Src, e.Request.Dst
		}
		return p.Local[0].Start, p.Remote[0].Start
	}
	for i := range g.machine.layout.tunnels {
		t := &g.machine.layout.tunnels[i]
		for j := range t.Children {
			if t.Children[j].OutPolicy != p.ID && t.Children[j].InPolicy != p.ID {
				continue
			}
			local, remote = t.Local, t.Remote
			if !remote.IsValid() {
				remote = netip.IPv4Unspecified()
			}
			if !local.IsValid() {
				local = unspecified(remote)
			}
			return local, remote
		}
	}
	return netip.IPv4Unspecified(), netip.IPv4Unspecified()
}

// liveEntries lists the policies of tunnels and those of a database, in the order they are asked.
func (g *Gateway) liveEntries(db *legacy.Database) []legacy.LiveEntry {
	used := map[uint32]time.Time{} // by group and direction
	for _, e := range g.entries(false) {
		if k := e.SA.ReqID; e.State.LastUsed.After(used[k]) {
			used[k] = e.State.LastUsed
		}
	}
	var list []legacy.LiveEntry
	for _, e := range db.Policies {
		r := g.manual.rules[e.Selection]
		if r.created.IsZero() {
			r.created = time.Now()
		}
		list = append(list, legacy.LiveEntry{Entry: *e, ID: uint64(r.id), Created: r.created, Used: used[r.reqID], PID: os.Getpid()})
	}
	ours := map[policy.PolicyID]bool{}
	for _, p := range g.machine.manual.policies {
		ours[p.ID] = true
	}
	for _, p := range g.machine.layout.policies {
		if !ours[p.ID] {
			list = append(list, g.childEntries(&p, used[p.ReqID])...)
		}
	}
	slices.SortStableFunc(list, func(a, b legacy.LiveEntry) int { return int(max(-1, min(1, int64(a.Priority)-int64(b.Priority)))) })
	return list
}

// childEntries are a child's policy for each pair of its selectors; a range that is no prefix is several, and of a range
// of ports the first stands for all.
func (g *Gateway) childEntries(p *policy.Policy, used time.Time) []legacy.LiveEntry {
	var list []legacy.LiveEntry
	local, remote := g.ends(p)
	for _, l := range p.Local {
		for _, r := range p.Remote {
			e := legacy.LiveEntry{
				Entry: legacy.Entry{Priority: p.Priority, Action: p.Action, Request: legacy.Request{Mode: p.Mode, Level: p.Level, Src: local, Dst: remote}},
				ID:    uint64(p.ID), Created: g.started, Used: used, PID: os.Getpid(),
			}
			src, dst := l, r
			e.Direction = legacy.Out
			if p.Direction == policy.Inbound {
				src, dst, e.Direction = r, l, legacy.In
				e.Request.Src, e.Request.Dst = remote, local
			}
			e.Protocol = max(src.Protocol, dst.Protocol)
			if e.Protocol == 0 {
				e.Protocol = legacy.AnyProtocol
			}
			e.SrcPort, e.DstPort = src.StartPort, dst.StartPort
			if e.Protocol == packet.ProtoICMP || e.Protocol == packet.ProtoICMPv6 {
				e.SrcPort, e.DstPort = src.StartPort>>8, src.StartPort&0xff
			}
			for _, e.Src = range src.Prefixes() {
				for _, e.Dst = range dst.Prefixes() {
					if e.Src.Addr().BitLen() == e.Dst.Addr().BitLen() {
						list = append(list, e)
					}
				}
			}
		}
	}
	return list
}
