package xfrm

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"coati/policy"
)

const (
	// eventBuffer is how many events wait for their reader before they are lost.
	eventBuffer = 4096
	// The kernel says nothing of an SA's first packet: young inbound SAs are looked at often, older ones now and then.
	lookEvery = 200 * time.Millisecond
	youth     = 30 * time.Second
	lookOld   = 25 // of the looks, one at those that are not young
	// refusedFor is how long a policy refuses packets after its negotiation has failed: those that waited in the kernel are dropped
	// meanwhile, instead of asking again at once.
	refusedFor = 200 * time.Millisecond
)

// The groups of rtnetlink's kind, each a bit (XFRMNLGRP_*): acquire, expire, mapping.
const groups = 1<<0 | 1<<1 | 1<<7

// listener hears the kernel.
type listener struct {
	file *os.File
	stop chan struct{}
	ends sync.WaitGroup
}

func (p *Plane) startListening() (*listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_XFRM)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	l := &listener{file: os.NewFile(uintptr(fd), "xfrm events"), stop: make(chan struct{})}
	l.ends.Go(func() { p.hear(l.file) })
	l.ends.Go(func() { p.look(l.stop) })
	return l, nil
}

func (l *listener) close() {
	close(l.stop)
	_ = l.file.Close()
	l.ends.Wait()
}

// hear reads until the file is closed. What is lost when the kernel's queue overflows is repeated, or found by look.
func (p *Plane) hear(f *os.File) {
	b := make([]byte, answerSize)
	for {
		n, err := f.Read(b)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			continue
		case err != nil:
			return
		}
		_ = messages(b[:n], func(kind, _ uint16, _ uint32, body []byte) bool {
			if ev, ok, err := parseEvent(kind, body); ok && err == nil {
				p.tell(&ev)
			}
			return false
		})
		clear(b[:n])
	}
}

// tell translates what concerns us.
func (p *Plane) tell(ev *event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ev.kind == msgAcquire {
		k, ok := p.slots[ev.acquire.index]
		if e := p.spd[k]; ok && e.owner != 0 {
			p.emit(policy.PlaneEvent{Kind: policy.PlaneAcquire, Policy: e.owner, Flow: flowOf(&ev.acquire.flow)})
		}
		return
	}
	s := p.byState[ev.id]
	if s == nil {
		return
	}
	switch {
	case ev.kind == msgMapping:
		p.emit(policy.PlaneEvent{Kind: policy.PlaneMapping, SA: s.config.ID, Remote: ev.remote})
	case ev.hard:
		if _, err := p.conn.get(ev.id); err == nil {
			return // it was the predecessor of one that is known by the same name
		}
		s.gone, s.installed, s.packets, s.bytes = true, false, ev.packets, ev.bytes
		p.emit(policy.PlaneEvent{Kind: policy.PlaneExpireHard, SA: s.config.ID})
	default:
		s.dying = true
		p.emit(policy.PlaneEvent{Kind: policy.PlaneExpireSoft, SA: s.config.ID})
	}
}

// emit never blocks.
func (p *Plane) emit(ev policy.PlaneEvent) bool {
	select {
	case p.events <- ev:
		return true
	default:
		return false
	}
}

// look finds the first packets of inbound SAs.
func (p *Plane) look(stop <-chan struct{}) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case now := <-tick.C:
			p.relent(now)
			if n%lookOld == 0 {
				p.heal()
			}
			for _, s := range p.unused(now, n%lookOld == 0) {
				p.lookAt(s, now)
			}
		}
	}
}

// relent lets policies ask again that have refused long enough.
func (p *Plane) relent(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.refused)
	for reqID, since := range p.refused {
		if now.Sub(since) >= refusedFor {
			delete(p.refused, reqID)
		}
	}
	if len(p.refused) == n || p.closed {
		return
	}
	if back, err := p.reconcile(p.desired(p.policies)); err != nil {
		// They still refuse: the next transaction tries again.
		back.run()
	}
}

func (p *Plane) unused(now time.Time, old bool) []*sa {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*sa
	for _, s := range p.sas {
		if s.config.Direction == policy.Inbound && s.installed && !s.used && !s.gone && (old || now.Sub(s.added) < youth) {
			out = append(out, s)
		}
	}
	return out
}

func (p *Plane) lookAt(s *sa, now time.Time) {
	p.mu.Lock()
	id := s.id
	p.mu.Unlock()
	r, err := p.conn.get(id)
	if err != nil || r.packets == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen(s, &r, now)
	s.used = s.used || p.emit(policy.PlaneEvent{Kind: policy.PlaneUsed, SA: s.config.ID})
}
