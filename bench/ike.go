package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"coati/ike"
	v2 "coati/ike/v2"
	"coati/policy"
)

// IKEOptions chooses what a handshake run measures. Empty means the usual.
type IKEOptions struct {
	Methods []string // key exchange, by its keyword
	Rounds  int
	Turn    time.Duration // of one method in one round
}

// IKERow is one method of key exchange: both ends in one process, one after the other, nothing but datagrams between them.
type IKERow struct {
	Method    string  `json:"method"`
	PerSecond float64 `json:"per_second"` // of both ends on one core
	Spread    float64 `json:"spread"`
	Responder float64 `json:"responder_us"` // processor time of a handshake, microseconds
	Initiator float64 `json:"initiator_us"`
	Count     int     `json:"count"`
}

var ikeMethods = []string{"x25519", "ecp256", "ecp384", "modp2048"}

// MethodNames lists what may be chosen.
func MethodNames() []string { return slices.Clone(ikeMethods) }

// party is one engine and what the world would do for it.
type party struct {
	engine  *ike.Engine
	addr    netip.Addr
	inbox   []ike.Event
	spent   time.Duration
	spi     policy.SPI
	said    policy.SAID
	plane   policy.Plane // nil: changes of SAs go nowhere
	out     ike.Out
	replied bool
	failure error
}

// match is two parties with a tunnel between them.
type match struct {
	a, b *party
	now  time.Time
	id   ike.CommandID
}

func newMatch(method string) (*match, error) {
	proposal, err := policy.ParseProposal(policy.ProtocolIKE, "aes128gcm16-prfsha256-"+method)
	if err != nil {
		return nil, err
	}
	sel := func(s string) []policy.Selector {
		x, perr := policy.ParseSelector(s)
		err = errors.Join(err, perr)
		return []policy.Selector{x}
	}
	m := &match{now: time.Unix(1_800_000_000, 0)}
	for i, p := range []**party{&m.a, &m.b} {
		remote := netip.AddrFrom4([4]byte{10, 9, 0, byte(2 - i)})
		local, far := sel(fmt.Sprintf("10.%d.0.0/24", i+1)), sel(fmt.Sprintf("10.%d.0.0/24", 2-i))
		*p = &party{addr: netip.AddrFrom4([4]byte{10, 9, 0, byte(1 + i)}), spi: 4096}
		(*p).boot(nil)
		(*p).inbox = append((*p).inbox, ike.Configure{Tunnels: []policy.PeerTunnel{{
			Name: "t", Version: 2, Remote: remote, PSK: policy.NewSecret([]byte(psk)), IKE: []policy.Proposal{proposal}, Start: policy.StartListen,
			Children: []policy.Child{{
				Name: "lan", Local: local, Remote: far, ESP: policy.DefaultESP(), ReplayWindow: 4096, ReqID: 1, OutPolicy: 1, InPolicy: 2,
			}},
		}}})
	}
	if err != nil {
		return nil, err
	}
	return m, m.settle()
}

// boot gives a party its engine. Its SPIs come from the plane, if it has one.
func (p *party) boot(plane policy.Plane) {
	c := ike.Config{
		Rand:     rand.Reader,
		AllocSPI: func(policy.Protocol) (policy.SPI, error) { p.spi++; return p.spi, nil },
		FreeSPI:  func(policy.Protocol, policy.SPI) {},
		SAState:  func(policy.SAID) (policy.State, error) { return policy.State{}, policy.ErrNoSA },
		NewSAID:  func() policy.SAID { p.said++; return p.said },
		Limits:   ike.DefaultLimits(), Protocols: []ike.Protocol{v2.New()},
	}
	if p.plane = plane; plane != nil {
		c.AllocSPI = func(proto policy.Protocol) (policy.SPI, error) { return p.plane.AllocSPI(proto) }
		c.FreeSPI = func(proto policy.Protocol, spi policy.SPI) { p.plane.FreeSPI(proto, spi) }
	}
	p.engine = ike.NewEngine(c)
}

// work has a party handle all that it has got, and hands on what it wants to send.
func (p *party) work(now time.Time, send func(ike.Send)) error {
	for len(p.inbox) > 0 {
		events := p.inbox
		p.inbox = nil
		for _, ev := range events {
			if err := p.handle(now, ev, send); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *party) handle(now time.Time, ev ike.Event, send func(ike.Send)) error {
	p.out.Reset()
	if err := p.engine.Handle(now, ev, &p.out); err != nil {
		return err
	}
	if p.plane != nil {
		for _, c := range p.out.Changes {
			if err := p.plane.Apply(c.Tx); err != nil {
				return err
			}
		}
	}
	for _, s := range p.out.Sends {
		if !s.Keepalive {
			send(s)
		}
	}
	for _, j := range p.out.Jobs {
		v, err := j.Run()
		p.inbox = append(p.inbox, ike.JobDone{ID: j.ID, Result: v, Err: err})
	}
	for _, a := range p.out.Asks {
		if what, ok := a.What.(ike.AskPath); ok {
			p.inbox = append(p.inbox, ike.Answer{ID: a.ID, Value: ike.PathAnswer{Local: p.addr, Remote: what.Remote}})
		}
	}
	for _, r := range p.out.Replies {
		p.replied, p.failure = true, r.Err
	}
	return nil
}

// settle delivers until nobody has anything to say.
func (m *match) settle() error {
	for len(m.a.inbox)+len(m.b.inbox) > 0 {
		if err := m.turn(m.a, m.b); err != nil {
			return err
		}
		if err := m.turn(m.b, m.a); err != nil {
			return err
		}
	}
	return nil
}

// turn has one party handle what it has got. Its processor time is its own.
func (m *match) turn(p, other *party) error {
	begin := threadTime()
	defer func() { p.spent += threadTime() - begin }()
	return p.work(m.now, func(s ike.Send) {
		other.inbox = append(other.inbox, ike.Datagram{Path: policy.Path{Local: s.Path.Remote, Remote: s.Path.Local}, Bytes: s.Bytes})
	})
}

// threadTime is the processor time of this thread, which its goroutine must be locked to.
func threadTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

func (m *match) command(v ike.Verb) error {
	m.id++
	m.a.replied, m.a.failure = false, nil
	m.a.inbox = append(m.a.inbox, ike.Command{ID: m.id, Verb: v, Tunnel: "t"})
	if err := m.settle(); err != nil {
		return err
	}
	if !m.a.replied {
		return fmt.Errorf("%s: no reply", v)
	}
	return m.a.failure
}

// handshake brings the tunnel up and down again, and returns what the first cost each party.
func (m *match) handshake() (initiator, responder time.Duration, err error) {
	m.a.spent, m.b.spent = 0, 0
	if err := m.command(ike.Up); err != nil {
		return 0, 0, err
	}
	initiator, responder = m.a.spent, m.b.spent
	if err := m.command(ike.Down); err != nil {
		return 0, 0, err
	}
	// What lingers after a delete goes with its timers.
	for n := 0; !m.a.engine.Idle() || !m.b.engine.Idle(); n++ {
		if n > 100 {
			return 0, 0, errors.New("an SA that was deleted does not go away")
		}
		next := ike.Earlier(m.a.engine.Deadline(), m.b.engine.Deadline())
		if next.After(m.now) {
			m.now = next
		}
		m.a.inbox, m.b.inbox = append(m.a.inbox, ike.Timer{}), append(m.b.inbox, ike.Timer{})
		if err := m.settle(); err != nil {
			return 0, 0, err
		}
	}
	m.now = m.now.Add(time.Second)
	return initiator, responder, nil
}

// IKE measures handshakes.
func IKE(ctx context.Context, o IKEOptions, p *Progress, r *Report) error {
	if len(o.Methods) == 0 {
		o.Methods = ikeMethods
	}
	if o.Rounds <= 0 {
		o.Rounds = 5
	}
	if o.Turn <= 0 {
		o.Turn = 500 * time.Millisecond
	}
	matches := make([]*match, len(o.Methods))
	rates := make([][]float64, len(o.Methods))
	rows := make([]IKERow, len(o.Methods))
	for i, method := range o.Methods {
		var err error
		if matches[i], err = newMatch(method); err != nil {
			return &ChoiceError{"key exchange", method, "a keyword of one group, such as " + strings.Join(ikeMethods, ", ")}
		}
		rows[i].Method = method
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p.begin("ike", len(o.Methods)*o.Rounds)
	defer p.end()
	for round := range o.Rounds {
		for i, method := range o.Methods {
			row := &rows[i]
			var took time.Duration
			n := 0
			for ; took < o.Turn; n++ {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				a, b, err := matches[i].handshake()
				if err != nil {
					return fmt.Errorf("%s: %w", method, err)
				}
				took += a + b
				row.Initiator += float64(a.Nanoseconds()) / 1000
				row.Responder += float64(b.Nanoseconds()) / 1000
			}
			row.Count += n
			rates[i] = append(rates[i], float64(n)/took.Seconds())
			p.step(fmt.Sprintf("round %d  %-9s %7.0f handshakes/s", round+1, method, rates[i][round]))
		}
	}
	for i := range rows {
		rows[i].PerSecond, rows[i].Spread = median(rates[i]), spread(rates[i])
		rows[i].Initiator /= float64(rows[i].Count)
		rows[i].Responder /= float64(rows[i].Count)
	}
	r.IKE = rows
	return nil
}
