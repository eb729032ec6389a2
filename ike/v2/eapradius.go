package v2

import (
	"errors"
	"fmt"
	"slices"

	"coati/ike"
	"coati/ike/eap"
	"coati/policy"
)

// A responder that knows no users takes the packets of EAP to a RADIUS server and back (RFC 3579). It asks for the identity
// itself; which server answered then gets all that follows.

// passThrough is what a responder remembers between two packets.
type passThrough struct {
	ask    ike.AskID
	packet eap.Packet // that the server is asked about
	user   string
	rounds int
	server int
	state  []byte
	msk    policy.Secret
}

func (p *passThrough) begin() []byte {
	return eap.Packet{Code: eap.Request, Type: eap.TypeIdentity}.Bytes()
}

// take checks a packet of the client before others are troubled with it.
func (p *passThrough) take(b []byte) error {
	q, err := eap.Parse(b)
	switch {
	case err != nil:
		return err
	case q.Code != eap.Response:
		return errors.New("the client's EAP packet is no response")
	case p.user == "" && (q.Type != eap.TypeIdentity || len(q.Data) == 0 || len(q.Data) > eap.MaxIdentity):
		return errors.New("the client has no EAP identity, or one that is too long")
	case p.rounds >= eap.MaxRounds:
		return fmt.Errorf("EAP did not end after %d rounds", eap.MaxRounds)
	}
	if p.user == "" {
		p.user = string(q.Data)
	}
	p.rounds++
	p.packet = q
	return nil
}

func (s *sa) askRADIUS(packet []byte) {
	p := s.eap.radius
	if err := p.take(packet); err != nil {
		s.eapStepped(eap.Step{Err: err})
		return
	}
	cfg := s.eap.tunnel.EAP.RADIUS
	p.ask = s.env.NextAsk()
	s.serving = &served{}
	s.out.Asks = append(s.out.Asks, ike.Ask{ID: p.ask, What: ike.AskRADIUS{
		Servers: cfg.Servers, Secret: cfg.Secret, Server: p.server, State: p.state, User: p.user, EAP: slices.Clone(packet),
		Peer: s.path.Remote, Local: s.path.Local.Addr(), NAS: ike.LocalIdentity(s.eap.tunnel, s.path).String(),
	}})
}

// answered goes on with what the world knows.
func (s *sa) answered(ev ike.Answer) {
	if s.eap == nil || s.eap.radius == nil || s.eap.radius.ask != ev.ID || s.serving == nil {
		return
	}
	s.eap.radius.ask = 0
	s.serving = nil
	s.eapStepped(s.eap.radius.step(ev))
	s.release()
	s.advance()
}

// step is what a server's answer means for the client.
func (p *passThrough) step(ev ike.Answer) eap.Step {
	failure := eap.Packet{Code: eap.Failure, ID: p.packet.ID}.Bytes()
	a, ok := ev.Value.(ike.RADIUSAnswer)
	if ev.Err != nil || !ok {
		return eap.Step{Send: failure, Err: ev.Err}
	}
	q, err := eap.Parse(a.EAP)
	p.server, p.state = a.Server, a.State
	switch a.Code {
	case ike.RADIUSAccept:
		if a.EAP != nil && (err != nil || q.Code != eap.Success) {
			return eap.Step{Send: failure, Err: errors.New("the RADIUS server accepts, and its EAP packet does not")}
		}
		p.msk = a.MSK
		return eap.Step{Send: eap.Packet{Code: eap.Success, ID: p.packet.ID}.Bytes(), Done: true}
	case ike.RADIUSChallenge:
		if err != nil || q.Code != eap.Request {
			return eap.Step{Send: failure, Err: errors.New("the RADIUS server asks for more, and its EAP packet is no request")}
		}
		return eap.Step{Send: slices.Clone(a.EAP)}
	}
	return eap.Step{Send: failure, Err: fmt.Errorf("the RADIUS server refuses the user %q", p.user)}
}
