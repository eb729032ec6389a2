package eap

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"coati/policy"
)

// Server is who checks. It asks for the identity first, then for its methods in order, until the client takes one.
type Server struct {
	cfg    *policy.EAP
	name   string // ours, which some methods tell
	random *rand.ChaCha8
	id     uint8 // of the request that is out
	last   uint8 // of the response being handled
	asked  Type
	method server
	tried  []policy.EAPMethod
	user   user
	rounds int
	// untouched: the client has not answered the method's first request, so it may still ask for another one.
	untouched bool
	maxTLS    uint16 // the highest version; 0: any
}

// NewServer makes the server's machine; name is what it calls itself. All it draws at random comes of the seed.
func NewServer(cfg *policy.EAP, name string, seed [32]byte) *Server {
	return &Server{cfg: cfg, name: name, random: rand.NewChaCha8(seed)}
}

// Begin is the first packet: who is there?
func (s *Server) Begin() []byte { return s.ask(TypeIdentity, nil) }

func (s *Server) ask(t Type, data []byte) []byte {
	s.asked = t
	return Packet{Request, s.id, t, data}.Bytes()
}

// User is whom the client proved to be.
func (s *Server) User() string {
	if m, ok := s.method.(interface{ innerUser() string }); ok && m.innerUser() != "" {
		return m.innerUser()
	}
	return s.user.name
}

// Refused is why the client has been told that it is refused; nil: it has not.
func (s *Server) Refused() error {
	if m, ok := s.method.(interface{ refused() error }); ok {
		return m.refused()
	}
	return nil
}

// Slow says that Handle will compute so much that others should not wait for it.
func (s *Server) Slow() bool { return s.method != nil && s.method.slow() }

// Close forgets keys, and ends what is under way. Nothing may be handled afterwards.
func (s *Server) Close() {
	if s.method != nil {
		s.method.close()
		s.method = nil
	}
}

// MSK is the key that a successful method made; empty: it makes none.
func (s *Server) MSK() policy.Secret {
	if s.method == nil {
		return policy.Secret{}
	}
	return s.method.msk()
}

// Handle takes a packet of the client. What it is refused with is in the Step beside the error.
func (s *Server) Handle(now time.Time, b []byte) Step {
	data, err := s.handle(now, b)
	switch {
	case err != nil:
		return Step{Send: Packet{Code: Failure, ID: s.last}.Bytes(), Err: err}
	case data == nil:
		return Step{Send: Packet{Code: Success, ID: s.last}.Bytes(), Done: true}
	}
	return Step{Send: data}
}

// handle returns the next request, or nil when the client has proved who it is.
func (s *Server) handle(now time.Time, b []byte) ([]byte, error) {
	q, err := Parse(b)
	if err != nil {
		return nil, err
	}
	if q.Code != Response || q.ID != s.id {
		return nil, errors.New("the client's EAP packet does not answer the last one")
	}
	if s.rounds++; s.rounds > MaxRounds {
		return nil, errRounds
	}
	s.last = s.id
	s.id++
	switch {
	case s.asked == TypeIdentity:
		if q.Type != TypeIdentity {
			return nil, fmt.Errorf("the client is asked for its EAP identity and answers with %s", q.Type)
		}
		if err := s.identify(q.Data); err != nil {
			return nil, err
		}
		return s.next(now, nil)
	case q.Type == TypeNak && s.untouched:
		s.method.close()
		return s.next(now, append([]byte{}, q.Data...))
	case q.Type != s.asked:
		return nil, fmt.Errorf("the client is asked for %s and answers with %s", s.asked, q.Type)
	}
	if m, ok := s.method.(interface{ at(time.Time) }); ok {
		m.at(now)
	}
	// The response carries the number of the request it answers.
	data, err := s.method.receive(q.ID, q.Data)
	if err != nil || data == nil {
		return nil, err
	}
	s.untouched = false
	return s.ask(s.asked, data), nil
}

// identify looks the user up. Who is unknown is asked like everybody: nobody learns who has an account.
func (s *Server) identify(identity []byte) error {
	if len(identity) == 0 || len(identity) > MaxIdentity {
		return errors.New("the client has no EAP identity, or one that is too long")
	}
	s.user = user{name: string(identity)}
	s.user.password, s.user.known = s.cfg.Users[s.user.name]
	if !s.user.known {
		s.user.password, s.user.known = s.cfg.Users[withoutDomain(s.user.name)]
	}
	if !s.user.known {
		s.user.password = policy.NewSecret(draw(s.random, 32))
	}
	return nil
}

// next asks for the first method not tried yet that the client wants; wants nil: anything.
func (s *Server) next(now time.Time, wants []byte) ([]byte, error) {
	for _, m := range s.cfg.Methods {
		if slices.Contains(s.tried, m) || wants != nil && !slices.Contains(wants, byte(typeOf(m))) {
			continue
		}
		s.tried = append(s.tried, m)
		if s.method = s.start(now, m); s.method == nil {
			continue
		}
		s.untouched = true
		return s.ask(typeOf(m), s.method.begin(s.id)), nil
	}
	return nil, fmt.Errorf("the client takes none of our EAP methods %v: it wants %s: see eap-methods", s.cfg.Methods, typesOf(wants))
}

func typesOf(wants []byte) string {
	if len(wants) == 0 || wants[0] == 0 {
		return "none"
	}
	out := ""
	for i, w := range wants[:min(len(wants), 8)] {
		if i > 0 {
			out += ", "
		}
		out += Type(w).String()
	}
	return out
}

func (s *Server) start(now time.Time, m policy.EAPMethod) server {
	switch m {
	case policy.EAPMSCHAPv2:
		return &mschapServer{user: &s.user, name: s.name, challenge: draw(s.random, challengeLen)}
	case policy.EAPMD5:
		return &md5Server{user: &s.user, challenge: draw(s.random, challengeLen)}
	case policy.EAPGTC:
		return &gtcServer{user: &s.user}
	case policy.EAPTLS:
		return newTLSServer(now, s.cfg, s.user.name, s.maxTLS)
	case policy.EAPTTLS:
		return newTTLSServer(now, s.cfg, s.name, s.random)
	}
	return nil
}
