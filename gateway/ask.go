package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"coati/ike"
)

// resolveTimeout bounds a question to the DNS.
const resolveTimeout = 10 * time.Second

// maxAsks bounds the questions that are worked on at a time.
const maxAsks = 16

// asker answers the engine's questions about the world, each on a goroutine of its own.
type asker struct {
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	source  func(netip.Addr) (netip.Addr, error) // our address on the way to a peer
	owns    func(netip.Addr) bool                // whether an address is ours
	bound   func(netip.Addr) bool                // whether we listen there
	slots   chan struct{}
	radius  *radiusClient
}

func newAsker(source func(netip.Addr) (netip.Addr, error), owns, bound func(netip.Addr) bool) *asker {
	return &asker{
		resolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
		source: source, owns: owns, bound: bound, slots: make(chan struct{}, maxAsks), radius: newRADIUSClient(),
	}
}

// answer works on one question until ctx ends.
func (a *asker) answer(ctx context.Context, q ike.Ask) ike.Answer {
	out := ike.Answer{ID: q.ID}
	if what, ok := q.What.(ike.AskRADIUS); ok {
		v, err := a.radius.answer(ctx, what)
		out.Value, out.Err = v, err
		return out
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		out.Err = ctx.Err()
		return out
	}
	switch what := q.What.(type) {
	case ike.AskPath:
		p, err := a.path(ctx, what)
		if err != nil {
			out.Err = err
		} else {
			out.Value = p
		}
	default:
		out.Err = fmt.Errorf("nobody knows how to answer %T", q.What)
	}
	return out
}

// path finds the peer's address and ours. Of a name's addresses the first that has a route is taken.
func (a *asker) path(ctx context.Context, q ike.AskPath) (ike.PathAnswer, error) {
	remotes := []netip.Addr{q.Remote}
	if q.Host != "" {
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		found, err := a.resolve(ctx, q.Host)
		if err != nil {
			return ike.PathAnswer{}, fmt.Errorf("the name %s cannot be resolved: %w", q.Host, plainDNS(err))
		}
		remotes = found
	}
	err := fmt.Errorf("the name %s has no address", q.Host)
	for _, remote := range remotes {
		remote = remote.Unmap()
		var local netip.Addr
		if local, err = a.local(q.Local, remote); err == nil {
			return ike.PathAnswer{Local: local, Remote: remote}, nil
		}
	}
	return ike.PathAnswer{}, err
}

func (a *asker) local(configured, remote netip.Addr) (netip.Addr, error) {
	if configured.IsValid() {
		if configured.Is4() != remote.Is4() {
			return netip.Addr{}, fmt.Errorf("the peer's address %v is of another family than ours, %v", remote, configured)
		}
		if !a.owns(configured) {
			return netip.Addr{}, fmt.Errorf("%v is no address of this machine now: see local", configured)
		}
		return configured, nil
	}
	src, err := a.source(remote)
	switch {
	case err != nil:
		return netip.Addr{}, err
	case !src.IsValid():
		return netip.Addr{}, fmt.Errorf("no route to %v: no address of ours leads there", remote)
	case !a.bound(src):
		return netip.Addr{}, fmt.Errorf("the route to %v leaves from %v, where nobody listens: name that address with local =", remote, src)
	}
	return src, nil
}

// plainDNS leaves out what the resolver repeats.
func plainDNS(err error) error {
	if d, ok := errors.AsType[*net.DNSError](err); ok {
		return errors.New(d.Err)
	}
	return err
}
